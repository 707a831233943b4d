# slim, not alpine: Node's own builds for Linux are made for glibc.
FROM node:24-slim

# In a container only the container itself reaches 127.0.0.1, but Prometheus or a probe of Kubernetes comes through the container's
# network. So the private listener listens on all addresses. Its port is not exposed: do not publish it. A client that calls it by a
# name, such as receiver:9090, needs that name in ADMIN_ALLOWED_HOSTS. A request to an IP address is always answered.
ENV NODE_ENV=production HANDLERS_DIR=/handlers DATA_DIR=/data ADMIN_HOST=0.0.0.0
# Node keeps compiled code there: the next start is faster and needs half of the memory. Nothing else in the image can be written.
ENV NODE_COMPILE_CACHE=/data/.compile-cache
WORKDIR /app

COPY package.json package-lock.json ./
RUN --mount=type=cache,target=/root/.npm npm ci --omit=dev --ignore-scripts
COPY src ./src
COPY examples ./examples

# Both folders exist and belong to the user, so the image also runs without mounts.
RUN ln -s /app/src/bin/cli.ts /usr/local/bin/b24-receiver \
 && mkdir /handlers \
 && mkdir -m 700 /data \
 && chown node:node /data /handlers

# The user node of the base image, as a number, because Kubernetes' runAsNonRoot cannot look names up.
USER 1000:1000
# If /data is not mounted, the journal must survive the container, and a read-only container must still start.
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.PORT || 8080}/healthz`).then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]

# A core dump would hold every secret and the events in memory, so no crash writes one. The command replaces the shell and keeps its
# process id.
ENTRYPOINT ["sh", "-c", "ulimit -c 0 && exec \"$@\"", "sh"]

# Node itself, not npm: a signal must reach the receiver.
CMD ["node", "--disable-sigusr1", "--disable-warning=ExperimentalWarning", "src/bin/receiver.ts"]
