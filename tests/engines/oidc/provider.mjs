// A real, certified OpenID Connect provider on loopback, for tests. `__init__.py` beside this file drives it: one
// JSON command a line on standard input, one JSON answer a line on standard output. Tokens come from the ordinary
// token endpoint; what a test wants in them travels in request headers x-test-*.
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';
import Provider from 'oidc-provider';

const HOST = '127.0.0.1';
const ALGORITHMS = { RS256: 'RSA', PS256: 'RSA', ES256: 'EC', EdDSA: 'OKP' };
let application;
let issuer;
let keys = [];
let requests = { jwks: 0, discovery: 0 };

function newKeys() {
  const pairs = [
    generateKeyPairSync('rsa', { modulusLength: 2048 }),
    generateKeyPairSync('ec', { namedCurve: 'P-256' }),
    generateKeyPairSync('ed25519'),
  ];
  return pairs.map(({ privateKey }) => ({ ...privateKey.export({ format: 'jwk' }), kid: randomUUID(), use: 'sig' }));
}

function header(ctx, name, otherwise) {
  const value = ctx.get(`x-test-${name}`);
  return value ? JSON.parse(Buffer.from(value, 'base64url').toString()) : otherwise;
}

function build() {
  const provider = new Provider(issuer, {
    jwks: { keys },
    clients: [{
      client_id: 'test', client_secret: 'test-client-secret', grant_types: ['client_credentials'],
      redirect_uris: [], response_types: [], token_endpoint_auth_method: 'client_secret_post',
    }],
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (ctx, resource) => ({
          audience: header(ctx, 'audience', resource),
          scope: ctx.oidc.params.scope ?? '',
          accessTokenFormat: 'jwt',
          accessTokenTTL: header(ctx, 'expires-in', 300),
          jwt: { sign: { alg: header(ctx, 'algorithm', 'RS256') } },
        }),
      },
    },
    ttl: { ClientCredentials: (ctx) => header(ctx, 'expires-in', 300) },
    formats: {
      customizers: {
        jwt(ctx, token, parts) {
          Object.assign(parts.payload, header(ctx, 'claims', {}));
        },
      },
    },
  });
  provider.on('server_error', (ctx, error) => process.stderr.write(`${error.stack}\n`));
  application = provider.callback();
}

const server = createServer((request, response) => {
  if (request.url === '/jwks') requests.jwks += 1;
  if (request.url.startsWith('/.well-known/')) requests.discovery += 1;
  application(request, response);
});
const listen = (port) => new Promise((resolve) => { server.listen(port, HOST, resolve); });

const commands = {
  // Signs with new keys; the old ones stay published only if asked for.
  rotate({ keep }) {
    keys = [...newKeys(), ...(keep ? keys : [])];
    build();
  },
  // Publishes only the newest keys.
  forget() {
    keys = keys.slice(0, Object.keys(ALGORITHMS).length - 1);
    build();
  },
  async down() {
    const closed = new Promise((resolve) => { server.close(resolve); });
    server.closeAllConnections();
    await closed;
  },
  up: () => listen(new URL(issuer).port),
  count: () => requests,
};

await listen(0);
issuer = `http://${HOST}:${server.address().port}`;
commands.rotate({ keep: false });
const say = (answer) => process.stdout.write(`${JSON.stringify(answer)}\n`);
say({ issuer });
// Standard input ends with the tests, however they end, and so does this process.
for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...options } = JSON.parse(line);
  say((await commands[command](options)) ?? {});
}
process.exit(0);
