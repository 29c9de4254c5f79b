"use strict";
(() => {
  const WORDS = { g: "given", f: "filled in", p: "partly given", n: "" };
  const REST = 700; // milliseconds on the last frame before the loop begins again
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;

  // A screen: the image of all its frames becomes a canvas that shows one of them.
  const screen = (el) => {
    const { frames, columns, width, height, states } = el.dataset;
    const image = el.querySelector("img");
    const canvas = document.createElement("canvas");
    canvas.width = +width;
    canvas.height = +height;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", el.querySelector(".label").textContent);
    const pen = canvas.getContext("2d");
    image.replaceWith(canvas);
    const show = (i) => {
      const at = Math.min(i, frames - 1);
      el.dataset.state = i < frames ? states[at] : "over";
      pen.drawImage(image, (at % columns) * width, Math.floor(at / columns) * height, +width, +height, 0, 0, +width, +height);
      return i < frames ? states[at] : "n";
    };
    return { show, ready: image.decode().catch(() => {}) };
  };

  const film = (el) => {
    const frames = +el.dataset.frames, fps = +el.dataset.fps;
    const screens = [...el.querySelectorAll(".screen")].map(screen);
    const timeline = el.querySelector(".timeline"), head = timeline.querySelector("b");
    const clock = el.querySelector(".clock");
    const self = { el, playing: false, seen: true, from: 0, at: 0 };

    self.show = (i) => {
      self.at = i;
      const states = screens.map((s) => s.show(i));
      const state = ["f", "p", "g"].find((s) => states.includes(s)) || "n";
      head.style.left = `${(100 * i) / frames}%`;
      timeline.setAttribute("aria-valuenow", i);
      const word = WORDS[state] && ` \u00b7 ${WORDS[state]}`;
      clock.textContent = `frame ${i}${word}`;
    };
    self.play = (on) => {
      self.playing = on;
      self.from = performance.now() - (1000 * self.at) / fps;
      el.classList.toggle("playing", on);
    };
    self.tick = (now) => {
      const loop = (1000 * frames) / fps + REST;
      const i = Math.min(frames - 1, Math.floor(((((now - self.from) % loop) + loop) % loop) * fps / 1000));
      if (i !== self.at) self.show(i);
    };
    const seek = (i) => {
      self.play(false);
      self.show(Math.max(0, Math.min(frames - 1, i)));
    };
    const seekTo = (event) => {
      const box = timeline.getBoundingClientRect();
      seek(Math.floor(((event.clientX - box.left) / box.width) * frames));
    };

    el.querySelector(".play").addEventListener("click", () => self.play(!self.playing));
    el.querySelectorAll(".glass").forEach((g) => g.addEventListener("click", () => self.play(!self.playing)));
    timeline.addEventListener("pointerdown", (event) => {
      timeline.setPointerCapture(event.pointerId);
      seekTo(event);
    });
    timeline.addEventListener("pointermove", (event) => {
      if (timeline.hasPointerCapture(event.pointerId)) seekTo(event);
    });
    timeline.addEventListener("keydown", (event) => {
      const to = { ArrowLeft: self.at - 1, ArrowRight: self.at + 1, Home: 0, End: frames - 1 }[event.key];
      if (to !== undefined) seek(to);
      else if (event.key === " ") self.play(!self.playing);
      else return;
      event.preventDefault();
    });

    el.classList.add("live");
    Promise.all(screens.map((s) => s.ready)).then(() => {
      self.show(0);
      self.play(!calm);
    });
    return self;
  };

  const films = [...document.querySelectorAll(".film")].map(film);
  const watch = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) films.find((f) => f.el === target).seen = isIntersecting;
  });
  films.forEach((f) => watch.observe(f.el));
  const tick = (now) => {
    for (const f of films) if (f.playing && f.seen) f.tick(now);
    requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);

  // Under the pointer a curve tells its values.
  const SVG = "http://www.w3.org/2000/svg";
  document.querySelectorAll(".plot").forEach((plot) => {
    const { x, top, bottom, series } = JSON.parse(plot.dataset.plot);
    const figure = plot.closest(".curve");
    let marks, tip;
    const clear = () => { marks?.remove(); tip?.remove(); marks = tip = undefined; };
    plot.addEventListener("pointerleave", clear);
    plot.addEventListener("pointermove", (event) => {
      clear();
      const scale = plot.viewBox.baseVal.width / plot.getBoundingClientRect().width;
      const px = (event.clientX - plot.getBoundingClientRect().left) * scale;
      const nearest = series.flatMap((s) => s.px).reduce((a, b) => (Math.abs(b - px) < Math.abs(a - px) ? b : a), Infinity);
      if (Math.abs(nearest - px) > 60) return;
      marks = plot.appendChild(document.createElementNS(SVG, "g"));
      const line = marks.appendChild(document.createElementNS(SVG, "path"));
      line.setAttribute("d", `M${nearest} ${top}V${bottom}`);
      line.style.stroke = "var(--ink-3)";
      tip = figure.appendChild(document.createElement("div"));
      tip.className = "tip";
      series.forEach((s) => {
        const i = s.px.indexOf(nearest);
        if (i < 0) return;
        if (!tip.children.length) tip.appendChild(document.createElement("div")).textContent = `${x} ${s.x[i]}`;
        const dot = marks.appendChild(document.createElementNS(SVG, "circle"));
        dot.setAttribute("cx", nearest);
        dot.setAttribute("cy", s.py[i]);
        dot.setAttribute("r", 4);
        dot.style.fill = s.colour;
        const row = tip.appendChild(document.createElement("div"));
        row.appendChild(document.createElement("i")).style.background = s.colour;
        row.appendChild(document.createElement("span")).textContent = s.label;
        row.appendChild(document.createElement("span")).textContent = s.y[i];
      });
      const left = nearest / scale, room = figure.clientWidth;
      tip.style.top = `${top / scale}px`;
      tip.style.left = `${Math.max(0, left + 14 + tip.offsetWidth > room ? left - 14 - tip.offsetWidth : left + 14)}px`;
    });
  });

  document.querySelectorAll(".copy").forEach((button) => {
    button.addEventListener("click", async () => {
      const text = button.previousElementSibling;
      try {
        await navigator.clipboard.writeText(text.textContent);
      } catch {
        getSelection().selectAllChildren(text); // where a page may not write: select, for the reader to copy
        button.textContent = "selected";
        return;
      }
      button.textContent = "copied";
      setTimeout(() => { button.textContent = "copy"; }, 1500);
    });
  });
})();
