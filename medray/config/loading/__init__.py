"""The loading of a config: YAML text, files, overrides, dotted keys, credentials, and the flags of former systems."""
