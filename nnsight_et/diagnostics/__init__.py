"""What a machine, a server or a model can do, before anything is measured."""
