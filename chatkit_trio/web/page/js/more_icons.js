// The icons that answers, prompts and the page around may name and the chat itself doesn't use, and
// what other sets call icons that we have. Loaded when one of them is to be shown.

const CIRCLE = "M12 3a9 9 0 1 0 0 18a9 9 0 1 0 0-18";
const PERSON = "M12 4a4 4 0 1 0 0 8a4 4 0 1 0 0-8M4.5 20.5c.8-3.6 3.7-5.5 7.5-5.500s6.7 1.9 7.5 5.5";
const PAGE = "M6 3h8l5 5v13H6zM14 3v5h5";
const PEN = "M4 20l1-4.500L16.5 4a2.1 2.1 0 0 1 3 0l.5.5a2.1 2.1 0 0 1 0 3L8.5 19z";
const SQUARE = "M6 3.500h12A2.5 2.5 0 0 1 20.5 6v12a2.5 2.5 0 0 1-2.5 2.500H6A2.5 2.5 0 0 1 3.5 18V6A2.5 2.5 0 0 1 6 3.5";
const STAR = "M12 3.500l2.6 5.4 5.9.8-4.3 4.1 1 5.9-5.2-2.8-5.2 2.8 1-5.900L3.5 9.700l5.9-.8z";
const BOOK = "M12 6.500C10 5 7 4.5 3.5 4.500v14C7 18.5 10 19 12 20.500c2-1.5 5-2 8.5-2v-14C17 4.5 14 5 12 6.500zM12 6.500v14";

export const paths = {
  agent: "M7 8h10a3 3 0 0 1 3 3v5a3 3 0 0 1-3 3H7a3 3 0 0 1-3-3v-5a3 3 0 0 1 3-3M12 8V4.500M9 13v1.500M15 13v1.5",
  analytics: "M4 20h16M7 20v-6M12 20V5M17 20v-9",
  atom: "M12 11a1 1 0 1 0 0 2a1 1 0 1 0 0-2M12 8c5 0 9 1.8 9 4s-4 4-9 4s-9-1.8-9-4s4-4 9-4M8.5 10c2.5-4.3 6-6.9 8-5.800s1.5 5.5-1 9.800s-6 6.9-8 5.800s-1.5-5.5 1-9.8",
  batch: "M12 3.500l8.5 4.500L12 12.5 3.5 8zM3.5 12l8.5 4.5 8.5-4.500M3.5 16l8.5 4.5 8.5-4.5",
  bolt: "M13 3L5 13.500h6L10 21l8.5-11h-6z",
  "book-open": BOOK,
  "book-closed": "M6.5 3.500H19V17H6.500A2 2 0 0 0 4.5 19V5.500a2 2 0 0 1 2-2M19 17v3.500H6.500a1.7 1.7 0 0 1 0-3.5",
  "book-clock": `M19 9V3.500H6.500a2 2 0 0 0-2 2V19a2 2 0 0 1 2-2H10M16.5 12a4.5 4.5 0 1 0 0 9a4.5 4.5 0 1 0 0-9M16.5 14.500v2l1.5 1`,
  bug: "M12 8a4.5 4.5 0 0 1 4.5 4.500v3a4.5 4.5 0 0 1-9 0v-3A4.5 4.5 0 0 1 12 8M9 8.500a3 3 0 0 1 6 0M12 12v8M3.5 10l4 1.500M20.5 10l-4 1.500M3.5 19l4-2M20.5 19l-4-2M3 14.500h4.500M16.5 14.500H21",
  calendar: "M5 5.500h14A1.5 1.5 0 0 1 20.5 7v12a1.5 1.5 0 0 1-1.5 1.500H5A1.5 1.5 0 0 1 3.5 19V7A1.5 1.5 0 0 1 5 5.500M3.5 10h17M8 3v4M16 3v4",
  "check-circle-filled": `${CIRCLE}M8 12.300l2.8 2.800L16 9.5`,
  compass: `${CIRCLE}M15.5 8.500l-2 5-5 2 2-5z`,
  confetti: "M4 20l4.5-12 7.5 7.500zM14 4v2.500M20 10h-2.500M15 9l4.5-4.500M10 3.500l.5 1.500M20.5 14l-1.5-.5",
  desktop: "M4.5 4.500h15A1.5 1.5 0 0 1 21 6v9a1.5 1.5 0 0 1-1.5 1.500h-15A1.5 1.5 0 0 1 3 15V6a1.5 1.5 0 0 1 1.5-1.500M12 16.500V20M8 20h8",
  "dots-horizontal": "M5 12h.01M12 12h.01M19 12h.01",
  "dots-vertical": "M12 5v.01M12 12v.01M12 19v.01",
  "empty-circle": CIRCLE,
  "external-link": "M13.5 4H20v6.500M20 4l-9 9M17 13.500V18a2 2 0 0 1-2 2H6a2 2 0 0 1-2-2V9a2 2 0 0 1 2-2h4.5",
  lab: "M9.5 3.500h5M10.5 3.500v6L5 18.500a1.5 1.5 0 0 0 1.3 2h11.400a1.5 1.5 0 0 0 1.3-2l-5.5-9v-6M8 14.500h8",
  images: "M8 4h11a1.5 1.5 0 0 1 1.5 1.500v10A1.5 1.5 0 0 1 19 17H8a1.5 1.5 0 0 1-1.5-1.500v-10A1.5 1.5 0 0 1 8 4M6.5 14.500l4-4 4 4 2-2 4 4M16 8h.01M3.5 8v10.500A1.5 1.5 0 0 0 5 20h11.5",
  lifesaver: `${CIRCLE}M12 8.500a3.5 3.5 0 1 0 0 7a3.5 3.5 0 1 0 0-7M5.7 5.700l3.8 3.800M14.5 14.500l3.8 3.800M18.3 5.700l-3.8 3.800M9.5 14.500l-3.8 3.8`,
  mail: "M4.5 5.500h15A1.5 1.5 0 0 1 21 7v10a1.5 1.5 0 0 1-1.5 1.500h-15A1.5 1.5 0 0 1 3 17V7a1.5 1.5 0 0 1 1.5-1.500M3.5 7l8.5 6.500L20.5 7",
  "map-pin": "M12 21c-4.5-4.5-7-7.8-7-11a7 7 0 0 1 14 0c0 3.2-2.5 6.5-7 11M12 7.500a2.5 2.5 0 1 0 0 5a2.5 2.5 0 1 0 0-5",
  maps: "M3.5 6.500l5.5-2.5 6 2.5 5.5-2.500v13.500L15 20l-6-2.500L3.5 20zM9 4v13.500M15 6.500V20",
  mobile: "M8.5 3h7A1.5 1.5 0 0 1 17 4.500v15a1.5 1.5 0 0 1-1.5 1.500h-7A1.5 1.5 0 0 1 7 19.500v-15A1.5 1.5 0 0 1 8.5 3M11 17.500h2",
  notebook: "M7 3.500h11A1.5 1.5 0 0 1 19.5 5v14a1.5 1.5 0 0 1-1.5 1.500H7A1.5 1.5 0 0 1 5.5 19V5A1.5 1.5 0 0 1 7 3.500M9.5 3.500v17M3.5 8h3.500M3.5 12h3.500M3.5 16h3.5",
  "notebook-pencil": "M19.5 9V5A1.5 1.5 0 0 0 18 3.500H7A1.5 1.5 0 0 0 5.5 5v14A1.5 1.5 0 0 0 7 20.500h4M9.5 3.500v17M13.5 20.500l.5-2.5 5.5-5.5 2 2L16 20z",
  "page-blank": PAGE,
  phone: "M6 3.500h3l1.5 4.5-2 1.500c1 2.5 3 4.5 5.5 5.500l1.5-2 4.5 1.500v3a2.5 2.5 0 0 1-2.5 2.500C10 20 4 14 3.5 6A2.5 2.5 0 0 1 6 3.5",
  play: "M7 4.500v15l12-7.500z",
  profile: `${CIRCLE}M12 7.500a3 3 0 1 0 0 6a3 3 0 1 0 0-6M6.5 18.500c1-2.3 3-3.5 5.5-3.500s4.5 1.2 5.5 3.5`,
  "profile-card": "M4.5 5h15A1.5 1.5 0 0 1 21 6.500v11a1.5 1.5 0 0 1-1.5 1.500h-15A1.5 1.5 0 0 1 3 17.500v-11A1.5 1.5 0 0 1 4.5 5M8.5 8.500a2 2 0 1 0 0 4a2 2 0 1 0 0-4M5.5 16c.5-1.5 1.5-2.2 3-2.200s2.5.7 3 2.200M14.5 10h4M14.5 14h3",
  star: STAR,
  "star-filled": STAR,
  "sparkle-double": "M10 5c.6 4.5 3 6.9 7.5 7.500C13 13.1 10.6 15.5 10 20c-.6-4.5-3-6.9-7.5-7.500C7 11.9 9.4 9.5 10 5M18.5 3c.3 2 1 2.7 3 3c-2 .3-2.7 1-3 3c-.3-2-1-2.7-3-3c2-.3 2.7-1 3-3",
  "square-code": `${SQUARE}M9.5 9L6.5 12l3 3M14.5 9l3 3-3 3`,
  "square-text": `${SQUARE}M7.5 8.500h9M7.5 12h9M7.5 15.500h5`,
  suitcase: "M4.5 7.500h15A1.5 1.5 0 0 1 21 9v9.500a1.5 1.5 0 0 1-1.5 1.500h-15A1.5 1.5 0 0 1 3 18.500V9a1.5 1.5 0 0 1 1.5-1.500M8.5 7.500V5A1.5 1.5 0 0 1 10 3.500h4A1.5 1.5 0 0 1 15.5 5v2.500M3 13h18",
  user: PERSON,
  wreath: "M9.5 20C6 18.5 4 15.5 4 11.500c0-2.5 1-5 3-7M14.5 20c3.5-1.5 5.5-4.5 5.5-8.500c0-2.5-1-5-3-7M4.2 9l3 1M4.5 14l3-1M6.5 17.500l2-2.500M19.8 9l-3 1M19.5 14l-3-1M17.5 17.500l-2-2.5",
  "write-alt": `${PEN}M13.5 7l3.5 3.500M13 20.500h7.5`,
};

// Names of other sets that mean something we have.
export const aliases = {
  "book": "book-open", "clipboard": "copy", "code": "square-code", "edit": "write",
  "file": "page-blank", "file-text": "document", "help-circle": "circle-question",
  "home": "compass", "image": "square-image", "loader": "reload", "map": "maps",
  "message-circle": "info", "mic": "microphone", "monitor": "desktop", "package": "cube",
  "paperclip": "attach", "pencil": "write", "refresh-cw": "reload", "rotate-cw": "reload",
  "settings": "settings-slider", "smartphone": "mobile", "sparkles": "sparkle-double",
  "triangle-alert": "warning", "alert-triangle": "warning", "trash-2": "trash", "x": "close",
  "upload": "send", "users": "user", "wrench": "tool", "zap": "bolt", "arrow-up": "send",
  "bot": "agent", "briefcase": "suitcase", "line-chart": "chart", "bar-chart": "analytics",
  "thumbs-up": "thumb-up", "thumbs-down": "thumb-down", "key": "keys", "flask-conical": "lab",
};
