"""Readers of run directories: tables and figures. Nothing here imports the training path."""
