"""A device's end of the connection to the portal: where to log in, and the life of the channel."""
