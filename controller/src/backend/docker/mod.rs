//! Workers as Docker containers. The only place that names bollard.
