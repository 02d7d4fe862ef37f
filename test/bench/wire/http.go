package wire

import (
	"bytes"
	"errors"
	"strconv"
)

// maxHead bounds the head of an answer or a request.
const maxHead = 16 << 10

var (
	headEnd       = []byte("\r\n\r\n")
	lengthHeader  = []byte("\r\ncontent-length:")
	errHead       = errors.New("the head of a message is longer than 16 KiB")
	errNoLength   = errors.New("an answer without content-length")
	errStatusLine = errors.New("not an HTTP/1.1 answer")
)

// parseAnswer reads the head of an answer. size is that of head and body together, 0 while the head is not complete.
func parseAnswer(b []byte) (status, size int, err error) {
	end := bytes.Index(b, headEnd)
	if end < 0 {
		if len(b) > maxHead {
			return 0, 0, errHead
		}
		return 0, 0, nil
	}
	if len(b) < 12 || !bytes.HasPrefix(b, []byte("HTTP/1.1 ")) {
		return 0, 0, errStatusLine
	}
	if status, err = strconv.Atoi(string(b[9:12])); err != nil {
		return 0, 0, errStatusLine
	}
	length, ok := contentLength(b[:end+2])
	if !ok {
		return 0, 0, errNoLength
	}
	return status, end + len(headEnd) + length, nil
}

// contentLength finds the header, in any case of letters.
func contentLength(head []byte) (int, bool) {
	for at := 0; ; {
		i := bytes.Index(head[at:], []byte("\r\n"))
		if i < 0 {
			return 0, false
		}
		at += i
		if line := head[at:]; len(line) > len(lengthHeader) && bytes.EqualFold(line[:len(lengthHeader)], lengthHeader) {
			value := line[len(lengthHeader):]
			if j := bytes.IndexByte(value, '\r'); j >= 0 {
				n, err := strconv.Atoi(string(bytes.TrimSpace(value[:j])))
				return n, err == nil && n >= 0
			}
			return 0, false
		}
		at += 2
	}
}
