! Many communicators and datatypes at once, with attributes, more than Open MPI's Fortran library finds in a fixed table of
! ours: it looks into the objects behind the handles.
!   plenty [ROUNDS [PAUSE_MS [OBJECTS]]]
program plenty
  use mpi
  implicit none
  integer, parameter :: wide = selected_int_kind(18)
  integer :: ierr, me, np, rounds, pause_ms, objects, r, i, key, type_key, ranks, bytes, word, got, length
  integer :: statuses(MPI_STATUS_SIZE)
  integer, allocatable :: comms(:), types(:)
  integer(kind=MPI_ADDRESS_KIND) :: extra, value
  integer(wide) :: hash, total
  logical :: flag
  real(8) :: t0
  character(len=32) :: arg
  character(len=MPI_MAX_OBJECT_NAME) :: name

  call MPI_Init(ierr)
  call MPI_Comm_rank(MPI_COMM_WORLD, me, ierr)
  call MPI_Comm_size(MPI_COMM_WORLD, np, ierr)
  rounds = 8; pause_ms = 400; objects = 9000
  if (command_argument_count() >= 1) then
    call get_command_argument(1, arg); read (arg, *) rounds
  end if
  if (command_argument_count() >= 2) then
    call get_command_argument(2, arg); read (arg, *) pause_ms
  end if
  if (command_argument_count() >= 3) then
    call get_command_argument(3, arg); read (arg, *) objects
  end if
  allocate (comms(objects), types(2 * objects))
  extra = 0
  call MPI_Comm_create_keyval(MPI_COMM_DUP_FN, MPI_COMM_NULL_DELETE_FN, key, extra, ierr)
  call MPI_Type_create_keyval(MPI_TYPE_DUP_FN, MPI_TYPE_NULL_DELETE_FN, type_key, extra, ierr)
  do i = 1, objects
    call MPI_Comm_dup(MPI_COMM_SELF, comms(i), ierr)
    value = 7 * i + me
    call MPI_Comm_set_attr(comms(i), key, value, ierr)
  end do
  do i = 1, 2 * objects
    call MPI_Type_contiguous(i, MPI_BYTE, types(i), ierr)
    call MPI_Type_commit(types(i), ierr)
    value = 9 * i + me
    call MPI_Type_set_attr(types(i), type_key, value, ierr)
  end do

  hash = me
  do r = 1, rounds
    do i = r, objects, 7
      call MPI_Comm_get_attr(comms(i), key, value, flag, ierr)
      if (.not. flag .or. value /= 7 * i + me) call wrong('attribute of communicator', i)
      call MPI_Comm_size(comms(i), ranks, ierr)
      if (ranks /= 1) call wrong('size of communicator', i)
      word = i + r
      call MPI_Sendrecv(word, 1, MPI_INTEGER, 0, 1, got, 1, MPI_INTEGER, 0, 1, comms(i), statuses, ierr)
      if (got /= word) call wrong('message on communicator', i)
      hash = ieor(ishftc(hash, 5), int(value, wide))
    end do
    do i = r, 2 * objects, 7
      call MPI_Type_get_attr(types(i), type_key, value, flag, ierr)
      if (.not. flag .or. value /= 9 * i + me) call wrong('attribute of datatype', i)
      call MPI_Type_size(types(i), bytes, ierr)
      if (bytes /= i) call wrong('size of datatype', i)
      hash = ieor(ishftc(hash, 3), int(value, wide))
    end do
    ! The last one is used by name, too.
    call MPI_Comm_set_name(comms(objects), 'the last', ierr)
    call MPI_Comm_get_name(comms(objects), name, length, ierr)
    if (name(1:length) /= 'the last') call wrong('name of communicator', objects)
    t0 = MPI_Wtime()
    do while (MPI_Wtime() - t0 < pause_ms * 0.001d0)
      call MPI_Iprobe(MPI_ANY_SOURCE, 9, MPI_COMM_WORLD, flag, MPI_STATUS_IGNORE, ierr)
    end do
  end do
  call MPI_Allreduce(hash, total, 1, MPI_INTEGER8, MPI_BXOR, MPI_COMM_WORLD, ierr)
  if (me == 0) print '(a,z16.16)', 'RESULT ', total
  do i = 1, objects
    call MPI_Comm_free(comms(i), ierr)
  end do
  do i = 1, 2 * objects
    call MPI_Type_free(types(i), ierr)
  end do
  call MPI_Finalize(ierr)

contains
  subroutine wrong(what, number)
    character(len=*), intent(in) :: what
    integer, intent(in) :: number
    print *, 'rank', me, ': wrong ', what, number
    call MPI_Abort(MPI_COMM_WORLD, 3, ierr)
  end subroutine
end program
