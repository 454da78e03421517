"""The networks, as plain modules that know nothing of Lightning or Hydra."""
