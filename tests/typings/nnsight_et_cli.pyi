# The command's package lies in cli/ and is installed under this name, by a hook that a type checker does not run.
from cli import app as app
