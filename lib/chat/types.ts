/** A function that the model may call, in OpenAI's form; the inner object alone is taken as well. */
export type Tool = { type: 'function'; function: ToolFunction } | ToolFunction;

export interface ToolFunction {
  name: string;
  description?: string;
  /** JSON schema of the arguments. */
  parameters?: object;
  [key: string]: unknown;
}

/** A call that a model made, in OpenAI's form. */
export interface ToolCall {
  id: string;
  type: 'function';
  function: {
    name: string;
    /** A JSON object as text. */
    arguments: string;
  };
}

/** What arrives of an answer. */
export type ChatDelta =
  | { type: 'content'; text: string }
  | { type: 'reasoning'; text: string }
  /** A call is being written: its name, and the next piece of its arguments. Not certain before its `toolCall`. */
  | { type: 'toolCallDelta'; index: number; id: string; name: string; arguments: string }
  /** A call is complete. */
  | { type: 'toolCall'; index: number; toolCall: ToolCall }
  /** What looked like a call is none; its text follows as content. */
  | { type: 'toolCallDiscarded'; index: number };

/** The function that a tool describes. */
export const functionOf = (tool: Tool): ToolFunction =>
  'function' in tool && typeof tool.function === 'object' ? (tool.function as ToolFunction) : (tool as ToolFunction);
