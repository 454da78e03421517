"""Training speed: this project, a bare loop, the reports' way, Keras; each in its own process."""
