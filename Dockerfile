# The gateway in an image of its own: built here, then put into one that holds the C library, certificates, no shell, and
# no root. Other bases: --build-arg BUILD=… --build-arg RUN=….
ARG BUILD=docker.io/library/rust:1.94-slim-bookworm
ARG RUN=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD} AS build
WORKDIR /highwater
# Only what is compiled: nothing else of the source makes this image anew.
COPY Cargo.toml Cargo.lock build.rs ./
COPY .sqlx .sqlx
COPY migrations migrations
COPY proto proto
COPY src src
# Not compiled, but the workspace names them.
COPY benches benches
COPY tests/protocol_model tests/protocol_model
RUN cargo build --release --locked --bin highwater

FROM ${RUN}
COPY --from=build /highwater/target/release/highwater /usr/local/bin/highwater
# By number, so that whoever runs it can see that it is not root.
USER 65532:65532
# Within a container of its own, who reaches the port is decided by what it is published to. The admin port stays on
# loopback unless HIGHWATER_ADMIN_LISTEN says otherwise, as Prometheus needs it.
ENV HIGHWATER_LISTEN=0.0.0.0:7070
EXPOSE 7070
STOPSIGNAL SIGTERM
# podman and buildah keep it only with --format docker.
HEALTHCHECK --interval=10s --timeout=4s --start-period=10s CMD ["/usr/local/bin/highwater", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/highwater"]
CMD ["serve"]
