// Which files a message may have, as far as the page around has told. Pure.

import { locale, strings } from "./strings.js";

// Of a list: "image/png", "image/*", "*/*" or ".png".
function isAccepted({ name, type }, accept) {
  const [kind] = type.split("/");
  const endings = accept.filter((each) => each.startsWith("."));
  if (endings.some((ending) => name.toLowerCase().endsWith(ending.toLowerCase()))) return true;
  // Browsers don't know every type; the server looks at the name too.
  return !type || accept.some((each) => each === type || each === "*/*" || each === `${kind}/*`);
}

// The limit for a media type: its own, that of its kind, or the one for all others.
function mostBytes(type, maxBytes) {
  if (maxBytes === null || typeof maxBytes !== "object") return maxBytes;
  const [kind] = type.split("/");
  const names = [type, `${kind}/*`, "*/*", "*", ""];
  return maxBytes[names.find((name) => name in maxBytes)] ?? null;
}

/** Returns why a file can't be added to so many others; null if it can, for all that is known. */
export function whyNot(file, count, { maxCount = null, maxBytes = null, accept = null }) {
  const { name, size, type } = file;
  if (maxCount && count >= maxCount) return strings.tooManyFiles(maxCount);
  const most = mostBytes(type, maxBytes);
  if (most && size > most) return strings.fileTooLarge(name, sizeText(most));
  if (accept && !isAccepted(file, accept)) return strings.fileNotAccepted(name);
  return null;
}

/** Returns what the picker offers: everything, unless it is known what is taken. */
export function pickerAccept({ accept }) {
  return !accept || accept.includes("*/*") ? null : accept.join(",");
}

const UNITS = ["byte", "kilobyte", "megabyte", "gigabyte"];

// Never more than there is.
function sizeText(bytes) {
  const power = Math.min(Math.floor(Math.log(Math.max(bytes, 1)) / Math.log(1024)), 3);
  const unit = new Intl.NumberFormat(locale(), { style: "unit", unit: UNITS[power], unitDisplay: power ? "short" : "long" });
  return unit.format(Math.floor((10 * bytes) / 1024 ** power) / 10);
}
