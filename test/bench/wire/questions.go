package wire

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// answerWithin is how long an answer to a question is waited for.
const answerWithin = time.Second

// asked is the name that is asked for.
const asked = "web.shop.svc.cluster.local."

// questions asks a server of DNS by UDP: each connection is a socket with one question at a time. The latencies are those of
// all questions that were answered.
func questions(l Load) (Result, error) {
	message, err := question()
	if err != nil {
		return Result{}, err
	}
	c := &client{load: l}
	var mu sync.Mutex // guards c
	var all sync.WaitGroup
	began := time.Now()
	for range l.Connections {
		all.Go(func() {
			took, err := ask(l, message, began)
			mu.Lock()
			defer mu.Unlock()
			c.took = append(c.took, took...)
			if err != nil {
				c.failed(err)
			}
		})
	}
	all.Wait()
	c.res.Took = time.Since(began)
	c.finish(time.Now())
	return c.res, nil
}

// ask asks on one socket until the time is over, or until an answer does not come.
func ask(l Load, message []byte, began time.Time) (took []time.Duration, err error) {
	conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(l.Target))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	out, in := append([]byte(nil), message...), make([]byte, 512)
	took = make([]time.Duration, 0, 1<<14)
	for id := uint16(1); time.Since(began) < l.Duration; id++ {
		if l.Every > 0 {
			time.Sleep(time.Until(began.Add(time.Duration(len(took)) * l.Every)))
		}
		binary.BigEndian.PutUint16(out, id)
		at := time.Now()
		if err := conn.SetReadDeadline(at.Add(answerWithin)); err != nil {
			return took, err
		}
		if _, err := conn.Write(out); err != nil {
			return took, err
		}
		n, err := conn.Read(in)
		if err != nil {
			return took, err
		}
		if n <= len(out) || binary.BigEndian.Uint16(in) != id || in[2]&0x80 == 0 {
			return took, fmt.Errorf("%d bytes that do not answer question %d", n, id)
		}
		took = append(took, time.Since(at))
	}
	return took, nil
}

func question() ([]byte, error) {
	name, err := dnsmessage.NewName(asked)
	if err != nil {
		return nil, err
	}
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{RecursionDesired: true})
	if err := b.StartQuestions(); err != nil {
		return nil, err
	}
	if err := b.Question(dnsmessage.Question{Name: name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}); err != nil {
		return nil, err
	}
	return b.Finish()
}

// address is the record that answers every question: the name that was asked for (a pointer to it), A, IN, 30 s, 10.96.0.1.
var address = []byte{0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 10, 96, 0, 1}

// Answer answers every question of DNS by UDP at an IPv4 address until ctx ends, without reading more of it than its size: less
// than any server of DNS does, so that what else a question costs counts for more.
func Answer(ctx context.Context, listen netip.AddrPort) error {
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(listen))
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	buf := make([]byte, 1024)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf[:512])
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if n < 12 {
			continue
		}
		buf[2], buf[3], buf[7] = buf[2]|0x80, 0x80, 1 // an answer, recursion available, one record
		if _, err := conn.WriteToUDPAddrPort(append(buf[:n], address...), from); err != nil && ctx.Err() == nil {
			return err
		}
	}
}
