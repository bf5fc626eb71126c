"""From a name, directory or file to a model: sources, checkpoints, configs."""
