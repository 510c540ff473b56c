import type { LoraOptions } from '../lib/adapters.js';
import { MlxError } from '../lib/errors.js';
import type { LanguageModel } from '../lib/model.js';

/** Puts the adapter of a trainer's `peftConfig` on the model, as TRL does with its `peft_config`. */
export function applyPeftConfig(model: LanguageModel, config: LoraOptions | undefined, where: string): void {
  if (config === undefined) return;
  if (model.hasAdapter) {
    throw new MlxError(
      'ERR_MLX_CONFIG',
      `${where}: peftConfig would put an adapter on a model that has one, '${String(model.activeAdapter)}'; leave it out to train that one`,
    );
  }
  model.applyLora(config);
}
