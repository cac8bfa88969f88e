"""Tools for agents: the jobs of a folder, over the Model Context Protocol."""
