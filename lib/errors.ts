/** Stable error codes; the first part comes from the addon, the rest is raised by the TypeScript layer. */
export type MlxErrorCode =
  | 'ERR_MLX_SHAPE'
  | 'ERR_MLX_DTYPE'
  | 'ERR_MLX_ARGUMENT'
  | 'ERR_MLX_LOAD'
  | 'ERR_MLX_SAVE'
  | 'ERR_MLX_CONFIG'
  | 'ERR_MLX_UNSUPPORTED_MODEL'
  | 'ERR_MLX_TEMPLATE'
  | 'ERR_MLX_CANCELLED'
  | 'ERR_MLX_DISPOSED'
  | 'ERR_MLX_OOM'
  | 'ERR_MLX_INTERNAL'
  | 'ERR_MLX_ADDON'
  | 'ERR_MLX_REWARD'
  | 'ERR_MLX_CHECKPOINT'
  | 'ERR_MLX_CONTEXT_LENGTH'
  | 'ERR_MLX_HUB_NOT_FOUND'
  | 'ERR_MLX_HUB_ACCESS'
  | 'ERR_MLX_HUB_NETWORK'
  | 'ERR_MLX_HUB_OFFLINE'
  | 'ERR_MLX_HUB_HASH'
  | 'ERR_MLX_HUB_DISK'
  | (string & {});

const marker = Symbol.for('mlx-node.MlxError');

/**
 * Every error this package throws on purpose. `code` is stable; `message` says what happened, with the values, and what to do.
 *
 * Use {@link MlxError.isInstance} instead of `instanceof` where two copies of the package may be loaded.
 */
export class MlxError extends Error {
  readonly code: MlxErrorCode;

  constructor(code: MlxErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'MlxError';
    this.code = code;
    Object.defineProperty(this, marker, { value: true });
  }

  /** True for an MlxError of any copy of this package, optionally with this code. */
  static isInstance(value: unknown, code?: MlxErrorCode): value is MlxError {
    return (
      typeof value === 'object' &&
      value !== null &&
      marker in value &&
      (code === undefined || (value as { code?: unknown }).code === code)
    );
  }
}

/** Turns whatever the addon threw into an {@link MlxError}, keeping its code; other errors pass unchanged. */
export function wrapNativeError(error: unknown): unknown {
  if (MlxError.isInstance(error) || !(error instanceof Error)) return error;
  const code = (error as { code?: unknown }).code;
  if (typeof code !== 'string') return error;
  if (code.startsWith('ERR_MLX_')) return new MlxError(code, error.message, { cause: error });
  // These are the statuses NAPI-RS uses for wrong argument types and for panics.
  if (code === 'GenericFailure') return new MlxError('ERR_MLX_INTERNAL', error.message, { cause: error });
  if (/^(InvalidArg|.*Expected)$/.test(code)) return new MlxError('ERR_MLX_ARGUMENT', error.message, { cause: error });
  return error;
}

/** Runs a synchronous call into the addon and rethrows its errors as {@link MlxError}. */
export function guard<T>(call: () => T): T {
  try {
    return call();
  } catch (error) {
    throw wrapNativeError(error);
  }
}

/** One line of text for any thrown value. */
export function errorText(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
