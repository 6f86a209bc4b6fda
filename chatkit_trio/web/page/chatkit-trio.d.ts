// The types of <chatkit-trio>. Where ChatKit.js has an option, method or event, the name is the same.

export type ColorScheme = "light" | "dark";

export interface Entity {
  id: string;
  title: string;
  icon?: string;
  group?: string;
  interactive?: boolean;
  data?: Record<string, unknown>;
}

export type UserMessageContent =
  | { type: "input_text"; text: string }
  | { type: "input_tag"; id: string; text: string; group?: string; data?: Record<string, unknown>; interactive?: boolean };

export interface Attachment {
  id: string;
  type: "file" | "image";
  name: string;
  mime_type: string;
  preview_url?: string;
}

/** A component of a widget, such as `{ type: "Card", children: [...] }`. */
export interface WidgetComponent {
  type: string;
  [property: string]: unknown;
}

export interface WidgetAction {
  type: string;
  payload?: Record<string, unknown>;
}

export interface ApiOption {
  /** The address of the endpoint, absolute or relative to the page. */
  url: string;
  /** Used for all requests but those that upload bytes: add headers and credentials here. */
  fetch?: typeof fetch;
  /** Not needed, and not looked at. */
  domainKey?: string;
  uploadStrategy?: { type: "two_phase" } | { type: "direct"; uploadUrl: string };
}

export interface ThemeOption {
  /** Without it the chat follows the page around. */
  colorScheme?: ColorScheme;
  radius?: "pill" | "round" | "soft" | "sharp";
  density?: "compact" | "normal" | "spacious";
  typography?: {
    /** In pixels. */
    baseSize?: number;
    fontFamily?: string;
    fontFamilyMono?: string;
    fontSources?: {
      family: string;
      src: string;
      weight?: string | number;
      style?: string;
      display?: string;
      unicodeRange?: string;
    }[];
  };
  color?: {
    grayscale?: { hue: number; tint: number; shade?: number };
    accent?: { primary: string; level: 0 | 1 | 2 | 3 };
    surface?: { background: string; foreground: string };
  };
  /** Ours: a button with which the reader chooses between light, dark and the system's. */
  toggle?: boolean;
}

export interface HeaderButton {
  icon: string;
  /** Ours: what screen readers say; without it the icon's name. */
  label?: string;
  onClick: () => void;
}

export interface ChatKitOptions {
  api: ApiOption;
  locale?: string;
  theme?: ColorScheme | ThemeOption;
  frameTitle?: string;
  initialThread?: string | null;
  onClientTool?: (call: { name: string; params: Record<string, unknown> }) => unknown;
  header?: {
    enabled?: boolean;
    title?: { enabled?: boolean; text?: string };
    leftAction?: HeaderButton;
    rightAction?: HeaderButton;
  };
  history?: {
    enabled?: boolean;
    showDelete?: boolean;
    showRename?: boolean;
    /** Ours: beside the chat instead of a drawer, where there is room. */
    sidebar?: boolean;
  };
  startScreen?: {
    greeting?: string;
    prompts?: { label: string; prompt: string | UserMessageContent[]; icon?: string }[];
  };
  threadItemActions?: { feedback?: boolean; retry?: boolean };
  thread?: {
    /** On unless it is false. */
    autoScroll?: boolean;
  };
  composer?: {
    placeholder?: string;
    attachments?: {
      enabled: boolean;
      /** In bytes, or bytes by media type. */
      maxSize?: number | Record<string, number>;
      maxCount?: number;
      accept?: Record<string, string[]>;
    };
    tools?: {
      id: string;
      label: string;
      icon: string;
      shortLabel?: string;
      placeholderOverride?: string;
      pinned?: boolean;
      persistent?: boolean;
    }[];
    models?: { id: string; label: string; description?: string; disabled?: boolean; default?: boolean }[];
    dictation?: { enabled: boolean };
  };
  disclaimer?: { text: string; highContrast?: boolean };
  entities?: {
    onTagSearch?: (query: string) => Promise<Entity[]>;
    showComposerMenu?: boolean;
    onClick?: (entity: Entity) => void;
    onRequestPreview?: (entity: Entity) => Promise<{ preview: WidgetComponent | null }>;
  };
  widgets?: {
    onAction?: (action: WidgetAction, item: { id: string; widget: WidgetComponent }) => Promise<void>;
  };
  /** Ours: the name above the list of conversations. */
  name?: string;
  /**
   * Ours: who the reader is, such as an account's id. What the browser keeps is that user's alone;
   * what it has kept of others at this server is deleted.
   */
  user?: string;
  /** Ours: where a reader goes who has been signed out (HTTP 401). */
  signInUrl?: string;
  /** Ours: whether links to chatkit-link:// are told to the page. On unless it is false. */
  deepLinks?: boolean;
}

export interface ChatKitEvents {
  "chatkit.ready": CustomEvent<null>;
  "chatkit.error": CustomEvent<{ error: Error & { status?: number; code?: string } }>;
  "chatkit.effect": CustomEvent<{ name: string; data: Record<string, unknown> }>;
  "chatkit.deeplink": CustomEvent<{ name: string; data: Record<string, string> }>;
  "chatkit.response.start": CustomEvent<{ threadId: string | null }>;
  "chatkit.response.end": CustomEvent<{ threadId: string | null }>;
  "chatkit.thread.change": CustomEvent<{ threadId: string | null }>;
  "chatkit.thread.load.start": CustomEvent<{ threadId: string }>;
  "chatkit.thread.load.end": CustomEvent<{ threadId: string }>;
  "chatkit.tool.change": CustomEvent<{ toolId: string | null }>;
  "chatkit.log": CustomEvent<{ name: string }>;
  /** Ours: what the chat does now, and in which thread. */
  "chatkit.state": CustomEvent<{
    phase: "idle" | "loading" | "streaming";
    threadId: string | null;
    title: string | null;
  }>;
}

export interface SentMessage {
  text?: string;
  content?: UserMessageContent[];
  reply?: string;
  attachments?: Attachment[];
}

export class ChatKitTrio extends HTMLElement {
  /** Takes a whole set of options; those that aren't given are the defaults. */
  setOptions(options: ChatKitOptions): void;
  focusComposer(): Promise<void>;
  setThreadId(threadId: string | null): Promise<void>;
  sendUserMessage(
    message: SentMessage & { newThread?: boolean; toolChoice?: { id: string }; model?: string },
  ): Promise<void>;
  setComposerValue(
    value: SentMessage & { files?: File[]; selectedToolId?: string | null; selectedModelId?: string },
  ): Promise<void>;
  sendCustomAction(action: WidgetAction, itemId?: string): Promise<void>;
  showHistory(): Promise<void>;
  hideHistory(): Promise<void>;
  fetchUpdates(): Promise<void>;
  /** Ours: stops the answer that is being written. */
  stop(): Promise<void>;

  addEventListener<K extends keyof ChatKitEvents>(
    type: K,
    listener: (event: ChatKitEvents[K]) => unknown,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
}

declare global {
  interface HTMLElementTagNameMap {
    "chatkit-trio": ChatKitTrio;
  }
}
