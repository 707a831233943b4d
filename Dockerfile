# slim, not alpine: Node's own builds for Linux are made for glibc.
FROM node:24-slim

# In a container 127.0.0.1 is the container's own: Prometheus, or a probe of Kubernetes, comes by the container's network. So the
# private listener listens on all of its addresses, but its port is not exposed: do not publish it. Whoever calls it by a
# name, such as receiver:9090, needs that name in ADMIN_ALLOWED_HOSTS; an address is always answered.
ENV NODE_ENV=production HANDLERS_DIR=/handlers DATA_DIR=/data ADMIN_HOST=0.0.0.0
WORKDIR /app

COPY package.json package-lock.json ./
RUN --mount=type=cache,target=/root/.npm npm ci --omit=dev --ignore-scripts
COPY src ./src

# Both folders exist and are the user's own, so that the image also runs without mounts.
RUN ln -s /app/src/bin/cli.ts /usr/local/bin/b24-receiver \
 && mkdir /handlers \
 && mkdir -m 700 /data \
 && chown node:node /data /handlers

# The user node of the base image, as a number: Kubernetes' runAsNonRoot cannot look names up.
USER 1000:1000
# Forgetting to mount /data must not lose the journal with the container, nor stop a read-only one from starting.
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.PORT || 8080}/healthz`).then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]

# A core dump would hold every secret, and what is in memory of the events; no crash writes one. The shell makes room for the
# command, which keeps its process id.
ENTRYPOINT ["sh", "-c", "ulimit -c 0 && exec \"$@\"", "sh"]

# Node itself, not npm: a signal must reach the receiver.
CMD ["node", "--disable-sigusr1", "--disable-warning=ExperimentalWarning", "src/bin/receiver.ts"]
