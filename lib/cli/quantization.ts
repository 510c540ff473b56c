import { Option } from 'commander';
import type { Command } from 'commander';
import type { ModelQuantization, QuantizationMode, QuantizationRecipe } from '../quantization.js';
import { UsageError, wholeNumber } from './io.js';

/** What {@link withQuantization} reads. */
export interface QuantizationFlags {
  qBits?: number;
  qGroupSize?: number;
  qMode?: QuantizationMode;
  quantPredicate?: QuantizationRecipe;
  qRule?: string[];
}

const group = 'Quantization:';

/** Adds mlx-lm's options of quantisation. */
export function withQuantization(command: Command): Command {
  const add = (option: Option): void => void command.addOption(option.helpGroup(group));
  add(new Option('--q-bits <n>', 'bits per weight: 2, 3, 4, 5, 6 or 8 (4)').argParser(wholeNumber('q-bits', 1)));
  add(
    new Option('--q-group-size <n>', 'weights that share a scale: 32, 64 or 128 (64)').argParser(
      wholeNumber('q-group-size', 1),
    ),
  );
  add(
    new Option('--q-mode <mode>', 'how weights are coded').choices([
      'affine',
      'mxfp4',
      'mxfp8',
      'nvfp4',
    ] satisfies QuantizationMode[]),
  );
  add(
    new Option('--quant-predicate <recipe>', 'more bits where they matter most').choices([
      'mixed_2_6',
      'mixed_3_4',
      'mixed_3_6',
      'mixed_4_6',
    ] satisfies QuantizationRecipe[]),
  );
  add(
    new Option(
      '--q-rule <rules...>',
      'layers that are packed otherwise: lm_head=6, v_proj=8:32, "model.layers.0.*=off", o_proj=mxfp8',
    ),
  );
  return command;
}

/** `8`, `8:32`, a mode, or `off`. */
function rule(text: string): [string, NonNullable<ModelQuantization['rules']>[string]] {
  const [, pattern, value] = /^(.+)=([^=]+)$/.exec(text) ?? [];
  const numbers = /^(\d+)(?::(\d+))?$/.exec(value ?? '');
  if (pattern !== undefined && value === 'off') return [pattern, false];
  if (pattern !== undefined && numbers !== null) {
    const groupSize = numbers[2] === undefined ? {} : { groupSize: Number(numbers[2]) };
    return [pattern, { mode: 'affine', bits: Number(numbers[1]), ...groupSize }];
  }
  if (pattern !== undefined && /^(mxfp4|mxfp8|nvfp4)$/.test(value ?? ''))
    return [pattern, { mode: value as QuantizationMode }];
  throw new UsageError(
    `--q-rule '${text}': a rule is a layer's name or the end of it (* stands for anything), '=', and bits, bits:group-size, a mode, or off`,
  );
}

/** The library's options of the flags. */
export function quantizationOf(flags: QuantizationFlags): ModelQuantization {
  const { qBits, qGroupSize, qMode, quantPredicate, qRule = [] } = flags;
  if (quantPredicate !== undefined && qBits !== undefined)
    throw new UsageError('--quant-predicate chooses the bits itself: leave --q-bits out');
  return {
    ...(qBits === undefined ? {} : { bits: qBits }),
    ...(qGroupSize === undefined ? {} : { groupSize: qGroupSize }),
    ...(qMode === undefined ? {} : { mode: qMode }),
    ...(quantPredicate === undefined ? {} : { recipe: quantPredicate }),
    ...(qRule.length === 0 ? {} : { rules: Object.fromEntries(qRule.map(rule)) }),
  };
}

/** True when one of {@link withQuantization}'s flags was given. */
export const quantizationGiven = (flags: QuantizationFlags): boolean => Object.keys(quantizationOf(flags)).length > 0;
