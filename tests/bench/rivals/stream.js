// Node: readline over a stream, as its manual has it.
//   stream.js lines|clean IN OUT
//   stream.js serve PORT OUT        one TCP connection with lines, until it closes
//   stream.js relay PORT TO         the same, on to a TCP connection
const crypto = require('crypto');
const fs = require('fs');
const net = require('net');
const readline = require('readline');

const [job, source, path] = process.argv.slice(2);

async function run(input) {
	const out = job === 'relay' ? net.connect({port: Number(path), host: '127.0.0.1', noDelay: true}) : fs.createWriteStream(path);
	for await (const line of readline.createInterface({input, crlfDelay: Infinity})) {
		let text = line;
		if (job !== 'lines') {
			const r = JSON.parse(line);
			if (r.level === 'debug')
				continue;
			r.service = r.service.toUpperCase();
			r.processed_at = new Date().toISOString();
			r.hash = crypto.createHash('md5').update(r.msg).digest('hex');
			text = JSON.stringify(r);
		}
		if (!out.write(text + '\n'))
			await new Promise(resolve => out.once('drain', resolve));
	}
	out.end();
}

if (job === 'serve' || job === 'relay') {
	const server = net.createServer(socket => run(socket).then(() => server.close()));
	server.listen(Number(source), '127.0.0.1');
} else {
	run(fs.createReadStream(source, {highWaterMark: 1 << 18}));
}
