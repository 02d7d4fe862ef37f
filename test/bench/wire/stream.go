package wire

import (
	"fmt"
	"net"
	"time"
)

// downloads asks for the streams that nobody reads, and gives them the time to fill what is between.
func downloads(l Load) ([]net.Conn, error) {
	var out []net.Conn
	for range l.Unread {
		c, err := net.DialTimeout("tcp4", l.Target.String(), 5*time.Second)
		if err != nil {
			return out, err
		}
		out = append(out, c)
		if _, err := c.Write(streamRequest); err != nil {
			return out, err
		}
	}
	if len(out) > 0 {
		time.Sleep(500 * time.Millisecond)
	}
	return out, nil
}

func closeAll(all []net.Conn) {
	for _, c := range all {
		_ = c.Close()
	}
}

var streamRequest = []byte("GET /stream HTTP/1.1\r\nhost: bench\r\n\r\n")

// stream reads bytes without end from one connection.
func stream(l Load) (Result, error) {
	c, err := net.DialTimeout("tcp4", l.Target.String(), 5*time.Second)
	if err != nil {
		return Result{}, err
	}
	defer c.Close()
	if _, err := c.Write(streamRequest); err != nil {
		return Result{}, err
	}
	buf := make([]byte, 1<<20)
	began := time.Now()
	end := began.Add(l.Duration)
	if err := c.SetDeadline(end.Add(5 * time.Second)); err != nil {
		return Result{}, err
	}
	var r Result
	for first := true; time.Now().Before(end); first = false {
		n, err := c.Read(buf)
		if err != nil {
			return r, err
		}
		if first && string(buf[:min(n, 12)]) != "HTTP/1.1 200" {
			return r, fmt.Errorf("unexpected answer %q", buf[:min(n, 300)])
		}
		r.Bytes += int64(n)
	}
	r.Took, r.CPU = time.Since(began), ownCPU()
	return r, nil
}
