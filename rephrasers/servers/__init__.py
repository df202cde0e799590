"""LLM servers: which one to use, its process from start to stop, and the guarded client that asks it."""

from rephrasers.servers.open_servers import Serving, choose_server, open_server, serving
from rephrasers.servers.settings import ServerSettings

__all__ = ["ServerSettings", "Serving", "choose_server", "open_server", "serving"]
