"""What each verb of the command line does once its words are read."""
