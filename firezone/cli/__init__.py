"""What the command lines share: option types, device identity, token file, start and end of a program."""
