"""What kind of file something is, and outputs that are whole or not there."""
