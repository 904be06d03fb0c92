"""The portal's side of the portal protocol, pure: who may log in, who may reach what, who is told what when it changes."""
