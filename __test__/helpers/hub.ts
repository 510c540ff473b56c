import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { onTestFinished } from 'vitest';

/** What goes wrong with one request. */
export interface Fault {
  status?: number;
  headers?: Record<string, string>;
  /** Ends the connection after so many bytes of the body. */
  cutAfter?: number;
  /** Sends so many bytes and then nothing. */
  stallAfter?: number;
  /** Changes a byte. */
  corrupt?: boolean;
  /** Answers a range with the whole. */
  ignoreRange?: boolean;
  /** Milliseconds before each piece of 16 KiB. */
  delay?: number;
  /** Ends before the body begins. */
  wait?: () => Promise<void>;
  /** Sends this instead of the answer. */
  body?: string;
}

export interface Seen {
  method: string;
  /** `api`, `resolve` or `cdn`. */
  kind: 'api' | 'resolve' | 'cdn';
  /** Name of the file, or the revision asked for. */
  file: string;
  range: string | undefined;
  authorization: string | undefined;
}

interface Repo {
  refs: Map<string, string>;
  commits: Map<string, Map<string, Buffer>>;
  access?: { status: number; headers: Record<string, string> };
}

const sha256 = (data: Buffer): string => createHash('sha256').update(data).digest('hex');
const gitHash = (data: Buffer): string => createHash('sha1').update(`blob ${data.length}\0`).update(data).digest('hex');
const isLarge = (name: string): boolean => name.endsWith('.safetensors') || name === 'tokenizer.json';

/** The name that a file's blob has in a cache. */
export const etagOf = (name: string, data: Buffer): string => (isLarge(name) ? sha256(data) : gitHash(data));

/** A hub on the loopback that speaks as much of huggingface.co's protocol as downloads need, storage server included. */
export class FakeHub {
  readonly seen: Seen[] = [];
  /** Asked before every answer. */
  fault: (request: Seen) => Fault | undefined = () => undefined;
  /** False: the list of files has names only, as on some mirrors. */
  listsBlobs = true;
  readonly #repos = new Map<string, Repo>();
  readonly #hub: Server;
  readonly #cdn: Server;

  private constructor() {
    this.#hub = createServer((request, response) => void this.#answerHub(request, response));
    this.#cdn = createServer((request, response) => void this.#answerCdn(request, response));
  }

  /** Started, and gone with the test. */
  static async start(): Promise<FakeHub> {
    // Whatever proxy the machine has, the loopback is not behind it.
    process.env['NO_PROXY'] = process.env['no_proxy'] = '127.0.0.1';
    const hub = new FakeHub();
    for (const server of [hub.#hub, hub.#cdn]) {
      server.listen(0, '127.0.0.1');
      await once(server, 'listening');
    }
    onTestFinished(() => hub.stop());
    return hub;
  }

  stop(): void {
    for (const server of [this.#hub, this.#cdn]) {
      server.close();
      server.closeAllConnections();
    }
  }

  get endpoint(): string {
    return `http://127.0.0.1:${(this.#hub.address() as AddressInfo).port}`;
  }

  /** Makes a commit of `files`, puts `ref` on it, and returns its hash. */
  commit(id: string, files: Record<string, string | Buffer>, ref = 'main'): string {
    const repo: Repo = this.#repos.get(id) ?? { refs: new Map(), commits: new Map() };
    this.#repos.set(id, repo);
    const contents = new Map(Object.entries(files).map(([name, data]) => [name, Buffer.from(data)]));
    const hash = createHash('sha1').update(`${id} ${ref} ${repo.commits.size}`);
    for (const [name, data] of contents) hash.update(name).update(data);
    const commit = hash.digest('hex');
    repo.commits.set(commit, contents);
    repo.refs.set(ref, commit);
    return commit;
  }

  /** Answers for files of `id` with this status, as for gated models; their lists stay public. */
  deny(id: string, status: number, headers: Record<string, string>): void {
    this.#repos.get(id)!.access = { status, headers };
  }

  /** Requests for contents, as `file` or `file@range`. */
  get fetched(): string[] {
    return this.seen
      .filter(
        ({ method, kind, file }) => method === 'GET' && (kind === 'cdn' || (kind === 'resolve' && !isLarge(file))),
      )
      .map(({ file, range }) => (range === undefined ? file : `${file}@${range}`));
  }

  #see(request: IncomingMessage, kind: Seen['kind'], file: string): Fault {
    const { range, authorization } = request.headers;
    const seen: Seen = { method: request.method!, kind, file, range, authorization };
    this.seen.push(seen);
    return this.fault(seen) ?? {};
  }

  async #answerHub(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = new URL(request.url!, this.endpoint).pathname;
    const tree = /^\/api\/models\/([^/]+\/[^/]+)\/tree\/([^/]+)$/.exec(path);
    const api = tree ?? /^\/api\/models\/([^/]+\/[^/]+)(?:\/revision\/([^/]+))?$/.exec(path);
    const resolve = /^\/([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/.exec(path);
    const [, id = '', rev = 'main', name = ''] = (api ?? resolve ?? []).map((text) =>
      decodeURIComponent(text ?? 'main'),
    );
    const fault = this.#see(request, api === null ? 'resolve' : 'api', api === null ? name : rev);
    if (fault.status !== undefined) return fail(response, fault.status, fault.headers);
    if (fault.body !== undefined) return void response.end(fault.body);
    const repo = this.#repos.get(id);
    if (repo === undefined)
      return fail(response, 404, { 'x-error-code': 'RepoNotFound', 'x-error-message': 'Repository not found' });
    const commit = repo.refs.get(rev) ?? rev;
    const files = repo.commits.get(commit);
    if (files === undefined) return fail(response, 404, { 'x-error-code': 'RevisionNotFound' });
    if (api !== null) {
      if (fault.delay !== undefined) await sleep(fault.delay);
      const siblings = [...files].map(([rfilename, data]) => ({
        rfilename,
        ...(this.listsBlobs ? listed(rfilename, data) : {}),
      }));
      response.setHeader('content-type', 'application/json');
      if (tree !== null)
        return void response.end(JSON.stringify([...files].map(([file, data]) => treeEntry(file, data))));
      return void response.end(JSON.stringify({ id, modelId: id, sha: commit, siblings, tags: [], private: false }));
    }
    if (repo.access !== undefined) return fail(response, repo.access.status, repo.access.headers);
    const data = files.get(name);
    if (data === undefined) return fail(response, 404, { 'x-error-code': 'EntryNotFound', 'x-repo-commit': commit });
    response.setHeader('x-repo-commit', commit);
    if (!isLarge(name)) {
      response.setHeader('etag', `"${gitHash(data)}"`);
      return await this.#send(request, response, data, fault);
    }
    response.setHeader('x-linked-etag', `"${sha256(data)}"`);
    response.setHeader('x-linked-size', String(data.length));
    const port = (this.#cdn.address() as AddressInfo).port;
    response.setHeader('location', `http://127.0.0.1:${port}/${id}/${commit}/${name}?signature=x`);
    response.statusCode = 302;
    response.end();
  }

  async #answerCdn(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const [, org, model, commit, ...rest] = new URL(request.url!, this.endpoint).pathname.split('/');
    const name = rest.join('/');
    const fault = this.#see(request, 'cdn', name);
    if (fault.status !== undefined) return fail(response, fault.status, fault.headers);
    const data = this.#repos.get(`${org}/${model}`)!.commits.get(commit!)!.get(name)!;
    response.setHeader('etag', '"of-the-storage"');
    await this.#send(request, response, data, fault);
  }

  async #send(request: IncomingMessage, response: ServerResponse, data: Buffer, fault: Fault): Promise<void> {
    const [, from, to] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '') ?? [];
    let body = data;
    response.setHeader('accept-ranges', 'bytes');
    if (from !== undefined && fault.ignoreRange !== true) {
      const start = Number(from);
      if (start >= data.length) return fail(response, 416, { 'content-range': `bytes */${data.length}` });
      const end = Math.min(data.length, to === '' ? data.length : Number(to) + 1);
      body = data.subarray(start, end);
      response.statusCode = 206;
      response.setHeader('content-range', `bytes ${start}-${end - 1}/${data.length}`);
    }
    response.setHeader('content-length', String(body.length));
    if (request.method === 'HEAD') return void response.end();
    if (fault.corrupt === true) {
      body = Buffer.from(body);
      body[body.length >> 1]! ^= 1;
    }
    const end = Math.min(body.length, fault.cutAfter ?? Infinity, fault.stallAfter ?? Infinity);
    response.flushHeaders();
    await fault.wait?.();
    for (let at = 0; at < end && !response.destroyed; at += 1 << 14) {
      if (fault.delay !== undefined) await sleep(fault.delay);
      const more = response.write(body.subarray(at, Math.min(end, at + (1 << 14))));
      if (!more && !response.destroyed) await drained(response);
    }
    if (fault.stallAfter !== undefined) return;
    if (fault.cutAfter !== undefined) {
      // What was written reaches the other side before the connection ends.
      await sleep(20);
      response.destroy();
    } else response.end();
  }
}

/** Until the response takes more, or is gone. */
async function drained(response: ServerResponse): Promise<void> {
  await new Promise<void>((resolve) => {
    const done = (): void => {
      response.off('drain', done).off('close', done);
      resolve();
    };
    response.on('drain', done).on('close', done);
  });
}

function listed(name: string, data: Buffer): object {
  const pointer = { size: data.length, blobId: gitHash(data) };
  return isLarge(name)
    ? {
        size: data.length,
        blobId: gitHash(Buffer.from('pointer')),
        lfs: { sha256: sha256(data), size: data.length, pointerSize: 134 },
      }
    : pointer;
}

/** A file in the list that Python asks for. */
function treeEntry(path: string, data: Buffer): object {
  const lfs = isLarge(path) ? { lfs: { oid: sha256(data), size: data.length, pointerSize: 134 } } : {};
  return { type: 'file', path, size: data.length, oid: gitHash(data), ...lfs };
}

function fail(response: ServerResponse, status: number, headers: Record<string, string> = {}): void {
  response.writeHead(status, headers);
  response.end(JSON.stringify({ error: `status ${status}` }));
}

/** Bytes that look random and are the same each time. */
export function noise(length: number, seed = 1): Buffer {
  const bytes = Buffer.alloc(length);
  let state = seed;
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[i] = state >>> 24;
  }
  return bytes;
}

/** A repository as they are: what a model needs, and more. */
export function modelRepo(weights: Buffer = noise(100_000)): Record<string, string | Buffer> {
  return {
    '.gitattributes': '*.safetensors filter=lfs',
    'README.md': '# A model',
    'config.json': '{"model_type":"qwen3"}',
    'generation_config.json': '{}',
    'model.safetensors': weights,
    'pytorch_model.bin': 'pickled',
    'tokenizer.json': noise(5000, 7),
    'tokenizer_config.json': '{"chat_template":"x"}',
    'onnx/model.onnx': 'graph',
  };
}
