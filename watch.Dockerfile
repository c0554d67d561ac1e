# `otel-metaflow watch` in an image: Python, this package, not root.
#
#   docker build -f watch.Dockerfile -t otel-metaflow-watch .
#   docker build -f watch.Dockerfile --build-arg EXTRAS="azure-identity azure-storage-blob" -t otel-metaflow-watch .
#
# EXTRAS is what Metaflow needs for a datastore that is not S3; for Google: "google-cloud-storage google-auth".

ARG BASE=python:3.13-slim

FROM ${BASE} AS build
ARG EXTRAS=
COPY pyproject.toml LICENSE /src/
COPY docs/pypi.md /src/docs/
COPY otel_metaflow /src/otel_metaflow
COPY shim /src/shim
RUN python -m venv /opt/otel-metaflow && /opt/otel-metaflow/bin/pip install --no-cache-dir /src ${EXTRAS}

FROM ${BASE}
LABEL org.opencontainers.image.title="otel-metaflow-watch" \
      org.opencontainers.image.description="Exports Metaflow runs that nobody recorded"
COPY --from=build /opt/otel-metaflow /opt/otel-metaflow
RUN mkdir -m 700 /var/lib/otel-metaflow && chown 10001:10001 /var/lib/otel-metaflow

# With a volume here the root file system can be read-only, but for /tmp. Metaflow wants a user and a home.
ENV OTEL_METAFLOW_HOME=/var/lib/otel-metaflow \
    HOME=/tmp \
    METAFLOW_USER=otel-metaflow \
    PYTHONDONTWRITEBYTECODE=1
VOLUME /var/lib/otel-metaflow
WORKDIR /tmp
USER 10001:10001
EXPOSE 13134
ENTRYPOINT ["/opt/otel-metaflow/bin/otel-metaflow", "watch", "--health", "0.0.0.0:13134"]
