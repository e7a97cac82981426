"""The coordinator's HTTP port: the REST API (`routes`, `server`), its OpenAPI document (`openapi`), and the web
pages (`pages`, `static/`). Every request to the cluster goes through the coordinator's own gRPC server
(`gateway`), so errors, limits, API keys and metrics are the same over HTTP and gRPC."""

from coordinator.web.gateway import private_address as private_address
from coordinator.web.server import start_web as start_web
