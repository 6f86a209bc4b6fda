// Times as people say them, in the language that is spoken. Pure but for the clock.

import { locale, strings } from "./strings.js";

const DAY = 24 * 60 * 60 * 1000;

const startOf = (date) => new Date(date).setHours(0, 0, 0, 0);
const daysAgo = (date, now) => Math.round((startOf(now) - startOf(date)) / DAY);

function dateOf(time) {
  const date = new Date(time);
  return time && !Number.isNaN(date.valueOf()) ? date : null;
}

/** Returns the name of the group that something of this time belongs to. */
export function groupOf(time, now = new Date()) {
  const date = dateOf(time) ?? new Date(0);
  const days = daysAgo(date, now);
  if (days <= 0) return strings.groups.today;
  if (days === 1) return strings.groups.yesterday;
  if (days <= 7) return strings.groups.week;
  if (days <= 30) return strings.groups.month;
  return date.toLocaleDateString(locale(), { month: "long", year: "numeric" });
}

/** Returns a time in short: of today the hour, of this year the day and the hour. */
export function shortTime(time, now = new Date()) {
  const date = dateOf(time);
  if (!date) return "";
  const hour = { hour: "numeric", minute: "2-digit" };
  if (daysAgo(date, now) === 0) return date.toLocaleTimeString(locale(), hour);
  const day = { day: "numeric", month: "short" };
  const isThisYear = date.getFullYear() === now.getFullYear();
  return date.toLocaleString(locale(), isThisYear ? { ...day, ...hour } : { ...day, year: "numeric" });
}

export function longTime(time) {
  return dateOf(time)?.toLocaleString(locale(), { dateStyle: "full", timeStyle: "short" }) ?? "";
}
