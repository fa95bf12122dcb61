// A small server on nothing but Node.js: says which machine answers, and counts.
//
// Routes: `/` who answers, as JSON; `/healthz` for checks; `/greeting` what the secret GREETING says;
// `/ticks` a line a second until the caller leaves.

'use strict';

const http = require('node:http');
const { randomBytes } = require('node:crypto');

const port = Number(process.env.PORT ?? 8080);
// The same in every answer of one run of one machine.
const who = {
  machine: process.env.FLY_MACHINE_ID ?? '',
  region: process.env.FLY_REGION ?? '',
  app: process.env.FLY_APP_NAME ?? '',
  release: process.env.RELEASE ?? '',
  boot_id: randomBytes(8).toString('hex'),
  node: process.version,
};
let counter = 0;

const routes = {
  '/': (request, response) => json(response, 200, { ...who, counter: ++counter }),
  '/healthz': (request, response) => json(response, 200, { ok: true }),
  '/greeting': (request, response) => {
    const greeting = process.env.GREETING;
    if (greeting === undefined) return json(response, 404, { error: 'the secret GREETING is not set' });
    return json(response, 200, { greeting });
  },
  '/ticks': ticks,
};

function json(response, status, body) {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(`${JSON.stringify(body)}\n`);
}

function ticks(request, response) {
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  const send = () => response.write(`data: ${new Date().toISOString()}\n\n`);
  send();
  const timer = setInterval(send, 1000);
  response.on('close', () => clearInterval(timer));
}

const server = http.createServer((request, response) => {
  const path = request.url.split('?', 1)[0];
  response.on('finish', () => console.log(`${request.method} ${path} ${response.statusCode}`));
  const route = routes[path];
  if (route) route(request, response);
  else json(response, 404, { error: `there is nothing at ${path}` });
});

// The platform sends SIGINT before it stops a machine: finish what is under way, then end.
for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, () => {
    console.log(`${signal}: stopping after ${counter} answers`);
    server.close(() => process.exit(0));
    server.closeIdleConnections();
  });
}

server.listen(port, () => console.log(`${who.machine} listens on ${port}, Node.js ${process.version}`));
