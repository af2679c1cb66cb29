"""GPTs behind the Adapter contract; one file per architecture."""
