// Runs a packed or compiled model on the inputs of its self-test, with stock onnxruntime-node. Prints
// one row of logits per image. The top class of each image and the median latency go to stderr.
'use strict';

const ort = require('onnxruntime-node');

const TIMED_RUNS = 200;
const FIRST_RUNS = 20; // not timed

// Element i of the self-test's inputs: see docs/format.md.
function probe(i) {
  let h = i >>> 0;
  h ^= h >>> 16;
  h = Math.imul(h, 0x85ebca6b);
  h ^= h >>> 13;
  h = Math.imul(h, 0xc2b2ae35);
  h ^= h >>> 16;
  return (h >>> 8) / 8388608 - 1;
}

function whole(text, { from }) {
  const n = Number(text);
  if (!Number.isSafeInteger(n) || n < from || n > 2 ** 32 - 1) {
    throw new Error(`THREADS and BATCH are whole numbers from 1, SEED from 0; got ${text}`);
  }
  return n;
}

async function main([path, ...numbers]) {
  if (numbers.length !== 3) {
    throw new Error('usage: node run_model.js MODEL THREADS BATCH SEED');
  }
  const [threads, batch] = numbers.slice(0, 2).map((text) => whole(text, { from: 1 }));
  const seed = whole(numbers[2], { from: 0 });

  const session = await ort.InferenceSession.create(path, { intraOpNumThreads: threads });
  const [image] = session.inputMetadata;
  const shape = [batch, ...image.shape.slice(1)];
  if (image.type !== 'float32' || !shape.every(Number.isSafeInteger)) {
    throw new Error(`the input is ${image.type} [${image.shape}], not float32 of a known size`);
  }
  const x = new Float32Array(shape.reduce((a, b) => a * b));
  for (let i = 0; i < x.length; i++) x[i] = probe(seed + i);
  const feeds = { [image.name]: new ort.Tensor('float32', x, shape) };

  const { data, dims } = (await session.run(feeds))[session.outputNames[0]];
  for (let i = 0; i < dims[0]; i++) {
    const row = data.subarray(i * dims[1], (i + 1) * dims[1]);
    console.log(row.join(' '));
    console.error(`image ${i}: class ${row.indexOf(row.reduce((a, b) => Math.max(a, b)))}`);
  }

  const ms = [];
  for (let i = 0; i < FIRST_RUNS + TIMED_RUNS; i++) {
    const began = process.hrtime.bigint();
    await session.run(feeds);
    ms.push(Number(process.hrtime.bigint() - began) / 1e6);
  }
  const median = ms.slice(FIRST_RUNS).sort((a, b) => a - b)[TIMED_RUNS / 2];
  console.error(
    `median of ${TIMED_RUNS} runs: ${median.toFixed(3)} ms (batch ${batch}, ${threads} threads, ` +
      `onnxruntime-node ${ort.env.versions.node})`,
  );
}

main(process.argv.slice(2)).catch((error) => {
  console.error(`error: ${error.message.split('\n')[0]}`);
  process.exitCode = 2;
});
