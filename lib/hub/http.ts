import { MlxError } from '../errors.js';
import { abortable, linkedController, pause } from './abort.js';
import { givenUp, networkText, statusError, TransientError } from './errors.js';
import type { Subject } from './errors.js';
import type { HubSettings } from './settings.js';

const maxRedirects = 10;
const userAgent = `mlx-node; node/${process.versions.node}`;

/** How often and how patiently a request is repeated. */
export interface RetryPolicy {
  maxRetries: number;
  /** Milliseconds before the first repetition; doubled each time, with some chance in it, 30 s at most. */
  retryDelay: number;
}

export interface Request {
  method?: 'GET' | 'HEAD';
  headers?: Record<string, string>;
  settings: HubSettings;
  subject: Subject;
  signal: AbortSignal | undefined;
}

/** An answer, and the hub's own headers where that sent us on to a storage server. */
export interface Answer {
  response: Response;
  /** Headers of the last answer that came from the hub itself. */
  hubHeaders: Headers;
  /** Aborts when the connection is ended, by the caller's signal or by {@link Answer.abort}. */
  signal: AbortSignal;
  /** Ends the connection, also while its body is being read. */
  abort(reason: unknown): void;
  /** Lets go of the caller's signal. */
  close(): void;
}

type Fetch = (url: string, init: RequestInit) => Promise<Response>;
let proxied: Promise<Fetch> | undefined;

/** fetch; through the proxy where HTTPS_PROXY and its kin name one, which Node's own does not do before version 24. */
async function fetcher(): Promise<Fetch> {
  const { env } = process;
  if (!(env['HTTPS_PROXY'] || env['https_proxy'] || env['HTTP_PROXY'] || env['http_proxy'])) return fetch;
  proxied ??= import('undici').then(({ EnvHttpProxyAgent, fetch: undiciFetch }) => {
    const dispatcher = new EnvHttpProxyAgent();
    return ((url, init) => undiciFetch(url, { ...init, dispatcher } as never)) as Fetch;
  });
  return await proxied;
}

/** True when the token, which was meant for `from`, may also go to `to`: never to a storage server. */
function keepsToken(from: URL, to: URL): boolean {
  return (
    from.origin === to.origin ||
    (to.protocol === 'https:' &&
      /(^|\.)(huggingface\.co|hf\.co)$/.test(to.hostname) &&
      !/^cdn-|^cas-/.test(to.hostname))
  );
}

/** Follows redirects itself, so that the hub's headers can be seen and the token stays with the hub. Fails on anything but success. */
export async function open(url: string, request: Request): Promise<Answer> {
  const { settings, subject, signal } = request;
  signal?.throwIfAborted();
  const { controller, release: close } = linkedController(signal);
  const timer = setTimeout(
    () =>
      controller.abort(
        new TransientError(`no answer within ${settings.metadataTimeout / 1000} s`, { unreachable: true }),
      ),
    settings.metadataTimeout,
  );
  try {
    const send = await fetcher();
    let at = new URL(url);
    let token = settings.token;
    let hubHeaders: Headers | undefined;
    for (let hops = 0; hops <= maxRedirects; hops++) {
      const headers: Record<string, string> = {
        'user-agent': userAgent,
        'accept-encoding': 'identity',
        // Node's fetch at times sends a request to a connection that has just been cut, and it never leaves: each gets its own.
        connection: 'close',
        ...request.headers,
      };
      if (token !== undefined) headers['authorization'] = `Bearer ${token}`;
      const sent = send(at.href, {
        method: request.method ?? 'GET',
        headers,
        redirect: 'manual',
        signal: controller.signal,
      });
      const response = await abortable(sent, controller.signal);
      const location = response.headers.get('location');
      // The hub's own headers end where a redirect leads away from it.
      if (hubHeaders === undefined || response.headers.has('x-repo-commit')) hubHeaders = response.headers;
      if (response.status >= 300 && response.status < 400 && location !== null) {
        void response.body?.cancel().catch(() => undefined);
        const next = new URL(location, at);
        if (next.protocol !== 'https:' && next.protocol !== 'http:')
          throw new MlxError(
            'ERR_MLX_HUB_NETWORK',
            `${subject.id}: the hub redirects to ${next.protocol}, which is not followed`,
          );
        // An address on the storage server answers a HEAD as well as a GET; the hub's headers say all that is asked.
        if (request.method === 'HEAD' && next.origin !== at.origin)
          return { response, hubHeaders, signal: controller.signal, abort, close };
        if (!keepsToken(at, next)) token = undefined;
        at = next;
        continue;
      }
      if (!response.ok) {
        void response.body?.cancel().catch(() => undefined);
        throw statusError(response, subject, settings);
      }
      return { response, hubHeaders, signal: controller.signal, abort, close };
    }
    throw new MlxError('ERR_MLX_HUB_NETWORK', `${subject.id}: more than ${maxRedirects} redirects`);
  } catch (error) {
    close();
    if (signal !== undefined && signal.aborted) throw signal.reason;
    throw transient(controller.signal.aborted ? controller.signal.reason : error);
  } finally {
    clearTimeout(timer);
  }

  function abort(reason: unknown): void {
    controller.abort(reason);
  }
}

/** A failure of fetch is one of the network; everything else is what it is. */
export function transient(error: unknown): unknown {
  if (error instanceof TransientError || MlxError.isInstance(error)) return error;
  const text = networkText(error);
  const unreachable =
    /ENOTFOUND|ECONNREFUSED|EAI_AGAIN|ENETUNREACH|EHOSTUNREACH|UND_ERR_CONNECT_TIMEOUT|ETIMEDOUT/.test(text);
  if (error instanceof TypeError || unreachable || /ECONNRESET|UND_ERR|EPIPE|terminated|other side closed/.test(text))
    return new TransientError(text, { cause: error, unreachable });
  return error;
}

/** Attempts that failed since something arrived; waits before the next one, or throws what ended it all. */
export class Retries {
  #failed = 0;

  constructor(
    private readonly policy: RetryPolicy,
    private readonly subject: Subject,
    private readonly settings: HubSettings,
  ) {}

  /** Something arrived: failures count anew. */
  progress(): void {
    this.#failed = 0;
  }

  async next(error: unknown, signal: AbortSignal | undefined): Promise<void> {
    if (signal?.aborted === true) throw signal.reason;
    if (!(error instanceof TransientError)) throw error;
    this.#failed += 1;
    // Where nobody answers, waiting long helps rarely.
    const most = error.unreachable ? Math.min(2, this.policy.maxRetries) : this.policy.maxRetries;
    if (this.#failed > most) throw givenUp(error, this.subject, this.settings, this.#failed);
    const backoff = Math.min(30_000, this.policy.retryDelay * 2 ** (this.#failed - 1)) * (0.5 + Math.random() / 2);
    const delay = Math.max(backoff, Math.min(error.retryAfter ?? 0, 300_000));
    await pause(delay, signal);
  }
}

/** Repeats `attempt` while what goes wrong may pass. */
export async function withRetries<T>(
  attempt: () => Promise<T>,
  policy: RetryPolicy,
  request: Pick<Request, 'subject' | 'settings' | 'signal'>,
): Promise<T> {
  const retries = new Retries(policy, request.subject, request.settings);
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      await retries.next(transient(error), request.signal);
    }
  }
}
