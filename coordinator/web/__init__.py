"""The coordinator's HTTP port: REST beside gRPC (`routes`, `server`), its OpenAPI document (`openapi`), and the
pages for people (`pages`, `static/`). Whatever asks the cluster goes through the coordinator's own gRPC server
(`gateway`), so errors, limits, keys and metrics are the same for both."""

from coordinator.web.gateway import private_address as private_address
from coordinator.web.server import start_web as start_web
