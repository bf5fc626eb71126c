"""The RPC methods: translate, submit, yield."""
