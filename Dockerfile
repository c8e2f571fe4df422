# One image for every service of ff-relay. The command names the service; without one it is the whole relay in one
# process. Needs no right to write but to DATA_DIR, and that only for the relay and the control plane.

# The version that package.json pins for machines without containers.
FROM node:26.10.0-slim AS packages
WORKDIR /app
COPY package.json package-lock.json ./

FROM packages AS build
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY nest-cli.json tsconfig.json .swcrc ./
COPY apps apps
COPY libs libs
RUN npm run build

FROM packages
ENV NODE_ENV=production
# The optional packages are the pinned Node, which this image is, and compilers.
RUN npm ci --omit=dev --omit=optional --ignore-scripts --no-audit --no-fund && npm cache clean --force
COPY --from=build /app/dist dist
COPY deploy/answers.mjs deploy/
RUN install --directory --owner=node --group=node /data
ENV DATA_DIR=/data
USER node
EXPOSE 7000 7080
# After `--`, --env-file is the relay's and not Node's.
ENTRYPOINT ["node", "--enable-source-maps", "--"]
CMD ["dist/apps/relay/src/main.js"]
