/** Conversations: sessions, and the parser of what chat models write. */
export type { ContextShift, ShiftRequest } from './context.js';
export type { ChatMessage, ContentPart } from './messages.js';
export { ChatParser, parseAnswer } from './parser.js';
export type { ChatParserOptions, ParsedAnswer } from './parser.js';
export { ChatSession } from './session.js';
export type { ChatModel, ChatModelStream, ChatSessionOptions, SendOptions } from './session.js';
export { ChatStream } from './stream.js';
export type { ChatResult } from './stream.js';
export type { ChatDelta, Tool, ToolCall, ToolFunction } from './types.js';
