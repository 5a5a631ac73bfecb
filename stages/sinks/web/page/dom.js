"use strict";

// Elements and numbers, for all other scripts.

const $ = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat();
const number = (value) => whole.format(value);
const rate = (value) => value.toFixed(value < 9.95 ? 1 : 0);
const ms = (value) => (value == null ? "–" : value < 9.95 ? value.toFixed(1) : number(Math.round(value)));

/** Make an element; text and children are never parsed as HTML, so no name can become markup. */
function make(tag, className = "", ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function duration(seconds) {
  const s = Math.floor(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

const sumOf = (counts) => Object.values(counts).reduce((all, n) => all + n, 0);
