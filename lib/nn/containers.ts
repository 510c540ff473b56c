/** Modules of modules. */
import type { MxArray } from '../array/core.js';
import { MlxError } from '../errors.js';
import { Module } from './module.js';
import type { Untyped } from './module.js';

/** Modules or functions, each applied to what the one before it returned. */
export class Sequential extends Module {
  readonly layers: (Module | ((x: Untyped) => Untyped))[];

  constructor(...modules: readonly (Module | ((x: Untyped) => Untyped))[]) {
    super();
    for (const [i, module] of modules.entries()) {
      if (!(module instanceof Module) && typeof module !== 'function') {
        throw new MlxError('ERR_MLX_ARGUMENT', `nn.Sequential takes modules and functions; number ${i} is neither`);
      }
    }
    this.layers = [...modules];
  }

  forward(x: Untyped): MxArray {
    for (const layer of this.layers) x = layer instanceof Module ? layer.forward(x) : layer(x);
    return x as MxArray;
  }
}
