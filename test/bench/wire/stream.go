package wire

import (
	"fmt"
	"net"
	"time"
)

// stream reads bytes without end from one connection.
func stream(l Load) (Result, error) {
	c, err := net.DialTimeout("tcp4", l.Target.String(), 5*time.Second)
	if err != nil {
		return Result{}, err
	}
	defer c.Close()
	if _, err := c.Write([]byte("GET /stream HTTP/1.1\r\nhost: bench\r\n\r\n")); err != nil {
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
