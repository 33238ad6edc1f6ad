// Counts how many of COUNT requests to each URL node considers answered, with and without keep-alive.
// usage: node client.js COUNT CERTIFICATE URL...
const fs = require("fs");
const [count, certificate, ...urls] = process.argv.slice(2);
const ca = fs.readFileSync(certificate);
let answered = 0, failed = 0;

function ask(kind, url, agent) {
  return new Promise((resolve) => {
    const fail = (error) => { failed += 1; console.error("node", url, error.message); resolve(); };
    kind.get(url, { agent, ca }, (answer) => {
      answer.on("error", fail);
      answer.on("data", () => {});
      answer.on("end", () => { answered += 1; resolve(); });
    }).on("error", fail);
  });
}

(async () => {
  for (const url of urls) {
    const kind = require(new URL(url).protocol.slice(0, -1));
    const kept = new kind.Agent({ keepAlive: true });
    for (let n = 0; n < count; n++) {
      await ask(kind, url, kept);
      await ask(kind, url, false);
    }
    kept.destroy();
  }
  console.log(answered, failed);
})();
