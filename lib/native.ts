import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { errorText, MlxError } from './errors.js';
import type { NativeModule } from './native-types.js';

let loaded: NativeModule | undefined;

/** The folder of the package: this file lies in `lib/` of the sources and in `dist/lib/` of the build. */
function packageRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, 'package.json'))) {
    const parent = dirname(folder);
    if (parent === folder) break;
    folder = parent;
  }
  return folder;
}

/** The addon, loaded on first use. Throws ERR_MLX_ADDON with the reason and the cure when it cannot be loaded. */
export function native(): NativeModule {
  if (loaded !== undefined) return loaded;
  const root = packageRoot();
  const entry = join(root, 'index.cjs');
  if (!existsSync(entry)) {
    throw new MlxError(
      'ERR_MLX_ADDON',
      `mlx-node: the native addon is not built: ${entry} is missing. Run 'npm run build' in ${root}.`,
    );
  }
  try {
    loaded = createRequire(import.meta.url)(entry) as NativeModule;
    return loaded;
  } catch (error) {
    throw new MlxError('ERR_MLX_ADDON', loadFailure(root, error), { cause: error });
  }
}

/** Texts of the generated loader that say nothing about this machine. */
const noise = /npm has a bug|wasi/;

function loadFailure(root: string, error: unknown): string {
  const reasons: string[] = [];
  for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) {
    const line = cause.message.split('\n')[0] ?? '';
    if (!noise.test(line) && !reasons.includes(line)) reasons.push(line);
  }
  const text = reasons.join('; ') || errorText(error);
  const here = `${process.platform}-${process.arch}`;
  let cure = `Run 'npm run build' in ${root} to build it for this machine (${here}, Node ${process.version}).`;
  if (/lib(cuda|cudnn|cublas|cufft|nvrtc|nccl)[\w]*\.so/.test(text)) {
    cure =
      'The addon is built for CUDA. libcuda comes with the NVIDIA driver; the other libraries by ' +
      "'mlx-c/scripts/cuda-libraries.sh', or put their folders on LD_LIBRARY_PATH (docs/cuda.md). " +
      `For the CPU: 'MLX_NODE_FLAVOUR=cpu npm run build' in ${root}.`;
  } else if (/cannot open shared object|Library not loaded|image not found/i.test(text)) {
    cure = `A shared library that the addon needs was not found. Run 'npm run build' in ${root} to fetch MLX again, and look at 'npx mlx-node doctor'.`;
  } else if (/^Cannot find module/m.test(text)) {
    cure =
      `There is no addon for ${here}. Run 'npm run build' in ${root}; if the package came from a registry, remove ` +
      'node_modules and package-lock.json and install again, because npm may have skipped the optional platform package.';
  }
  return `mlx-node: the native addon could not be loaded: ${text}\n  ${cure}`;
}
