import { appendFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';

/** Entries that are kept. */
const limit = 1000;

/** Where what was typed is kept: `mlx-node/chat-history` under XDG_STATE_HOME. */
export const historyPath = (env = process.env): string =>
  join(env['XDG_STATE_HOME'] || join(homedir(), '.local', 'state'), 'mlx-node', 'chat-history');

/** What a person typed in earlier chats: one JSON string a line, the oldest first. */
export class History {
  constructor(private readonly path: string) {}

  /** The last entries, the newest first. A file that cannot be read has none. */
  read(): string[] {
    let lines: string[];
    try {
      lines = readFileSync(this.path, 'utf8').split('\n');
    } catch {
      return [];
    }
    const entries = lines.flatMap((line) => {
      try {
        const entry = JSON.parse(line) as unknown;
        return typeof entry === 'string' ? [entry] : [];
      } catch {
        return [];
      }
    });
    const kept = entries.slice(-limit);
    if (entries.length > 2 * limit)
      this.#write(() => writeFileSync(this.path, kept.map(jsonLine).join(''), { mode: 0o600 }));
    return kept.toReversed();
  }

  /** Adds an entry. A history that cannot be written is no reason to end a chat. */
  add(entry: string): void {
    this.#write(() => {
      mkdirSync(dirname(this.path), { recursive: true, mode: 0o700 });
      appendFileSync(this.path, jsonLine(entry), { mode: 0o600 });
    });
  }

  #write(work: () => void): void {
    try {
      work();
    } catch {
      // See `add`.
    }
  }
}

const jsonLine = (entry: string): string => `${JSON.stringify(entry)}\n`;
