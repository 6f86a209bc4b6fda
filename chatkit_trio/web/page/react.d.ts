import type * as React from "react";
import type { ChatKitEvents, ChatKitOptions, ChatKitTrio } from "./chatkit-trio.js";

export * from "./chatkit-trio.js";

type Methods = Pick<
  ChatKitTrio,
  | "focusComposer" | "setThreadId" | "sendUserMessage" | "setComposerValue" | "sendCustomAction"
  | "showHistory" | "hideHistory" | "fetchUpdates" | "stop"
>;

type Camel<S extends string> = S extends `${infer Head}.${infer Tail}` ? `${Capitalize<Head>}${Camel<Tail>}` : Capitalize<S>;

/** onThreadChange is the handler of chatkit.thread.change, and so on; each gets the event's detail. */
export type Handlers = {
  [K in keyof ChatKitEvents as K extends `chatkit.${infer Name}` ? `on${Camel<Name>}` : never]?: (
    detail: ChatKitEvents[K]["detail"],
  ) => void;
};

export interface Control {
  ref: React.RefObject<ChatKitTrio | null>;
  options: ChatKitOptions;
  handlers: Handlers;
}

export function useChatKit(given: ChatKitOptions & Handlers): Methods & { control: Control; ref: React.RefObject<ChatKitTrio | null> };
export function ChatKit(props: { control: Control } & React.HTMLAttributes<HTMLElement>): React.ReactElement;
