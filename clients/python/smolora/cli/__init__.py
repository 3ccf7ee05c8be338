"""`smolora-client`: one file a verb, imported when it is called."""
