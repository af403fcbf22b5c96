/*
 * A guest small enough for every VMM that the tests start: it counts in RAM and prints "tick N" on the
 * first serial port (0x3f8), every few
 * milliseconds, for ever. "boot" is printed once, on a
 * cold start only, so that a guest that goes on from a saved state can be told from one that began again.
 *
 * One ELF serves all: Cloud Hypervisor, QEMU (-kernel) and newer Firecrackers enter at `start32` by the PVH
 * note, in 32-bit protected mode without paging; older Firecrackers enter at `start64` by the Linux
 * 64-bit boot protocol, in long mode with the low memory mapped as it is. Both run the same code,
 * assembled once for each mode: nothing in it depends on the mode.
 *
 * It uses no interrupts, no devices but the serial port, and no memory but its own image.
 *
 * Build: cc -c micro.S -o micro.o
 *        ld -m elf_x86_64 -static -N -Ttext=0x100000 -e start64 --build-id=none -o micro.elf micro.o
 */

#define SERIAL 0x3f8
#define LINE_STATUS (SERIAL + 5)
#define TRANSMITTER_EMPTY 0x20
/* About 10 ms on a machine of 3 GHz. A TSC that jumps, as after a restore, ends the wait at once. */
#define CYCLES_PER_TICK (1 << 25)
#define XEN_ELFNOTE_PHYS32_ENTRY 18

/* Prints the zero-terminated text at %esi. */
.macro print_text
7:      movb    (%esi), %bl
        testb   %bl, %bl
        jz      9f
        movl    $LINE_STATUS, %edx
8:      inb     %dx, %al
        testb   $TRANSMITTER_EMPTY, %al
        jz      8b
        movl    $SERIAL, %edx
        movb    %bl, %al
        outb    %al, %dx
        incl    %esi
        jmp     7b
9:
.endm

.macro count_for_ever
        cli
        movl    $boot_text, %esi
        print_text
1:      incl    counter
        movl    counter, %eax
        movl    $digits_end, %edi
        movl    $10, %ecx
2:      xorl    %edx, %edx
        divl    %ecx
        addb    $'0', %dl
        decl    %edi
        movb    %dl, (%edi)
        testl   %eax, %eax
        jnz     2b
        movl    $tick_text, %esi
        print_text
        movl    %edi, %esi
        print_text
        rdtsc
        movl    %eax, %ecx
3:      rdtsc
        subl    %ecx, %eax
        cmpl    $CYCLES_PER_TICK, %eax
        jb      3b
        jmp     1b
.endm

        .text
        .code32
        .globl  start32
start32:
        count_for_ever

        .code64
        .globl  start64
start64:
        count_for_ever

        .data
        .balign 4
counter:
        .long   0
boot_text:
        .asciz  "boot\r\n"
tick_text:
        .asciz  "tick "
        .skip   10
digits_end:
        .asciz  "\r\n"

        .section .note.Xen, "a", @note
        .balign 4
        .long   4
        .long   8
        .long   XEN_ELFNOTE_PHYS32_ENTRY
        .asciz  "Xen"
        .quad   start32

        .section .note.GNU-stack, "", @progbits
