/**
 * Scopes: who frees the arrays that are made while a function runs. The scope of `tidy` follows its function through `await`
 * (AsyncLocalStorage), so that arrays made meanwhile by code that the function does not call belong to others.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import { leaveToCollector } from './core.js';
import type { MxArray } from './core.js';

const storage = new AsyncLocalStorage<Scope>();

const nobody: ReadonlySet<MxArray> = new Set();

/** Arrays that no scope frees. */
const kept = new WeakSet<MxArray>();

/** Scopes that are open in this thread: while there is none, making an array costs nothing more. */
export let openScopes = 0;

/** The scope that looks after an array made now. */
export function collecting(): Scope | undefined {
  return openOf(storage.getStore());
}

/** A function that goes on after its scope has closed makes arrays for the scope around it. */
function openOf(scope: Scope | undefined): Scope | undefined {
  while (scope !== undefined && !scope.open) scope = scope.outer;
  return scope;
}

/** Lets an array live on when the scopes end in which it was made. */
export function exempt(array: MxArray): void {
  kept.add(array);
}

/** Whether no scope frees an array. */
export const isExempt = (array: MxArray): boolean => kept.has(array);

export class Scope {
  readonly made: MxArray[] = [];
  open = true;
  readonly outer = collecting();

  constructor() {
    openScopes += 1;
  }

  run<T>(body: () => T): T {
    return storage.run(this, body);
  }

  /** Frees what was made, but for the survivors, which belong to the scope around this one, or to the garbage collector. */
  close(survivors: ReadonlySet<MxArray> = nobody): void {
    if (!this.open) return;
    this.open = false;
    openScopes -= 1;
    // While it is on, every promise of the process pays for it.
    if (openScopes === 0) storage.disable();
    const outer = openOf(this.outer);
    for (const array of this.made) {
      if (array.disposed) continue;
      if (kept.has(array)) leaveToCollector(array);
      else if (!survivors.has(array)) array.dispose();
      else if (outer !== undefined) outer.made.push(array);
      else leaveToCollector(array);
    }
    this.made.length = 0;
  }
}
