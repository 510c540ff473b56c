import { describe, expect, it } from 'vitest';
import type { Reward, RewardArgs } from '../../trainers/grpo/types.ts';
import { nameRewards } from '../../trainers/grpo/rewards.ts';
import {
  completionAnswer,
  exactAnswer,
  formatReward,
  gsm8kAnswer,
  lastNumber,
  lengthPenalty,
} from '../../trainers/rewards/text.ts';
import { goldenCases } from '../helpers/golden.ts';

const score = (reward: Reward, args: object): unknown =>
  reward({ completions: [], completionIds: [], ...args } as unknown as RewardArgs);

const recorded = (name: string) => goldenCases('rewards').filter(({ options }) => options['function'] === name);

const same = (): number[] => [];

describe('rewards', () => {
  it("penalises length as TRL's soft overlong punishment", () => {
    const cases = recorded('get_soft_overlong_punishment');
    expect(cases.length).toBe(4);
    for (const { options, inputs, expected } of cases) {
      const { max_completion_len: max, soft_punish_cache: cache } = options['args'] as {
        max_completion_len: number;
        soft_punish_cache: number;
      };
      const completionIds = (inputs['completion_lengths'] as number[]).map((n) => Array.from({ length: n }, () => 1));
      const got = score(lengthPenalty({ free: max - cache, max }), { completionIds }) as number[];
      (expected['rewards'] as number[]).forEach((want, i) => expect(got[i]).toBeCloseTo(want, 6));
    }
  });

  it("judges a format as TRL's think_format_reward, given its pattern", () => {
    const cases = recorded('think_format_reward');
    expect(cases.length).toBe(4);
    const reward = formatReward(/<think>(?!.*<think>).*?<\/think>.*/s);
    for (const { inputs, expected } of cases)
      expect(score(reward, { completions: inputs['contents'] })).toEqual(expected['rewards']);
  });

  it('compares extracted answers with a column; a row without an answer is not scored', () => {
    const reward = exactAnswer({ extract: lastNumber });
    expect(
      score(reward, { completions: ['so 1,200.50', 'no idea', '7', '7'], answer: ['1200.5', '3', null, 7] }),
    ).toEqual([1, 0, null, 1]);
    expect(() => score(reward, { completions: ['1'] })).toThrow(/no column 'answer'/);
  });

  it.each([
    ['so 1,200 in all.', '1200'],
    ['-3.50', '-3.5'],
    ['007', '7'],
    ['-0', '0'],
    ['none', null],
    ['10-3', '-3'],
    ['it costs $5.', '5'],
  ])('finds the last number of %j', (text, want) => expect(lastNumber(text)).toBe(want));

  it('reads the answer of GSM8K solutions and of completions', () => {
    expect(gsm8kAnswer('9 * 2 = <<9*2=18>>18\n#### 18')).toBe('18');
    expect(gsm8kAnswer('#### 1,080.00')).toBe('1080');
    expect(gsm8kAnswer('no mark 5')).toBeNull();
    expect(completionAnswer('#### $18 because of 3')).toBe('18');
    expect(completionAnswer('thus \\boxed{42}, not 7')).toBe('42');
    expect(completionAnswer('so 3 and then 4.')).toBe('4');
  });

  it('numbers rewards whose names are alike or missing', () => {
    expect(nameRewards([same, same, () => []]).map(({ name }) => name)).toEqual(['same', 'same_2', 'reward_3']);
  });
});
