"""Traces: an application, a server and a collector, each a real one."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import traced_application
from headstream.client import Client
from server_process import running_server
from trace_collector import Collector, Span, running_collector
