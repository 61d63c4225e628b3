# The demo's answer, found without the product: packages and bytes by section, of those that have a Filename.
function finish() {
	if (file) {
		packages[section]++
		bytes[section] += size
	}
	file = 0
	section = ""
	size = 0
}
/^Section:/ { section = $2 }
/^Size:/ { size = $2 }
/^Filename:/ { file = 1 }
/^$/ { finish() }
END {
	finish()
	for (s in packages)
		printf "%s|%d|%.0f\n", s, packages[s], bytes[s]
}
